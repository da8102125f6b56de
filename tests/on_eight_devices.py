"""One device against eight of a CPU, and other numbers of them; prints what came as JSON."""

import os
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from scipy.sparse import csr_array

import spen_jax as sx
from spen_jax import objectives, parallel

MESH = parallel.all_cores(8)
ENVIRONMENT = [name for name in os.environ if name.startswith("XLA")]
DEVICES = jax.devices()

from parallel_problem import (  # noqa: E402
    DATA,
    ENERGY,
    FEATURES,
    OPTIMIZER,
    PARAMS,
    collectives,
    f1,
    fit,
    predictor,
    say,
    state,
    step_of,
)


def mesh_of(n, kind=AxisType.Auto):
    return jax.make_mesh((n,), ("batch",), axis_types=(kind,), devices=DEVICES[:n])


def on(n, function):
    """function() with n devices in use."""
    parallel.use(mesh_of(n) if n > 1 else None)
    return function()


def gap(a, b):
    """The largest relative difference of two trees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    gaps = [np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0) for x, y in pairs]
    scale = max(float(np.max(np.abs(np.asarray(x)), initial=0)) for x in jax.tree.leaves(a))
    return float(max(gaps)) / scale


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True) for x, y in pairs)


def forced(tree, n):
    """On n devices however little there is to do, where they divide it."""
    return parallel.split(tree, mesh_of(n)) if n > 1 else tree


def steps():
    kinds = {
        "end to end": objectives.end_to_end(predictor()),
        "max margin": objectives.max_margin(predictor(solver=sx.GradientDescent())),
        "implicit": objectives.end_to_end(predictor(temperature=1.0, differentiate="implicit")),
        "explicit axes": objectives.end_to_end(predictor()),
    }
    found = {}
    for kind, objective in kinds.items():
        explicit = kind.startswith("explicit")
        mesh = mesh_of(8, AxisType.Explicit) if explicit else MESH
        start, data = parallel.everywhere((state(), DATA.train), mesh)
        found[kind] = collectives(step_of(objective, start, data, np.arange(64)))
    return found


def losses():
    """Loss curves of one device and of eight, and how far they are apart."""

    def drawn(context, key, domain):
        return domain.random(key, (len(jax.tree.leaves(context)[0]), 16))

    def dropout(params, x, key):
        keep = jax.random.bernoulli(key, 0.8, x.shape)
        return FEATURES(params, x * keep)

    kinds = {
        "end to end": (objectives.end_to_end(predictor()), 64),
        "max margin": (objectives.max_margin(predictor(solver=sx.GradientDescent())), 64),
        "dropout and drawn starts": (
            objectives.end_to_end(sx.Predictor(ENERGY, dropout, start=drawn, steps=5)),
            64,
        ),
        "100 rows do not divide": (objectives.end_to_end(predictor()), 100),
    }
    gaps, kept, scores = {}, None, None
    for kind, (objective, size) in kinds.items():
        epochs = 10 if size == 64 else 3
        parallel.use(None)
        one, trained = fit(objective, epochs=epochs, batch_size=size)
        kept = kept or one
        start = parallel.everywhere(state(), MESH)
        eight, over = fit(objective, start, epochs=epochs, batch_size=size)
        gaps[kind] = float(np.max(np.abs(np.array(one) / np.array(eight) - 1)))
        if scores is None:
            scores = f1(trained), on(8, lambda over=over: f1(over, batch_size=64))
    return gaps, kept, scores


def answers_on_other_devices():
    rng = np.random.default_rng(0)
    found = {}
    params = {"C": jnp.asarray(rng.standard_normal((16, 40)), jnp.float32)}

    def energy(params, context, y):
        return sx.energies.softplus(params["C"] @ y).sum() - context @ y

    for rows in (8, 48, 100, 512, 2048):
        context = rng.standard_normal((rows, 40)).astype(np.float32)
        start = np.full((rows, 40), 0.5, np.float32)

        def solve(n, context=context, start=start, **options):
            given = forced((context, start), n)
            found = sx.minimize(energy, forced(params, n) if n == 1 else params, *given, **options)
            return found.y, found.residual

        parallel.use(None)
        one = solve(1)
        for n in (2, 8):
            of(found, f"minimize {rows} on {n}", one, solve(n), alike=rows >= 256 * n)
    parallel.use(None)
    rows = 96
    context, start = rng.standard_normal((rows, 40)).astype(np.float32), np.full((rows, 3, 40), 0.5)
    for name, sampler in {
        "langevin": sx.Langevin(0.01),
        "adjusted": sx.Langevin(0.01, adjusted=True),
        "signs": sx.Langevin(0.01, noise="two-point"),
        "gibbs": sx.GibbsWithGradients(),
    }.items():

        def drawn(n, sampler=sampler):
            given = forced((context, start.astype(np.float32)), n)
            got = sx.sample(energy, params, *given, jax.random.key(0), sampler=sampler, steps=8)
            return got.y

        of(found, f"{name} on 2", drawn(1), drawn(2), alike=True)
    big = np.concatenate([DATA.test.x] * 8)[:1111]
    answers = {n: on(n, lambda: predictor(steps=100)(PARAMS, big).y) for n in (1, 2, 3, 8)}
    for n in (2, 3, 8):
        of(found, f"predictor on {n}", answers[1], answers[n], alike=n == 2)
    early = [on(n, lambda: predictor(steps=100, stop_early=True)(PARAMS, big)) for n in (1, 2)]
    of(found, "stopped early on 2", early[0].steps, early[1].steps, alike=True)
    return found


def of(found, name, one, several, *, alike):
    """Notes the largest difference, 0 where all bits are to be the same, in blocks of the same size."""
    if alike:
        found[f"{name}, to the bit"] = 0.0 if same(one, several) else 1.0
    else:
        found[name] = gap(one, several)


def words():
    """What inference and sampling say between devices."""
    parallel.use(None)
    context, start = parallel.split(
        (np.ones((512, 40), np.float32), np.full((512, 40), 0.5, np.float32)), MESH
    )

    def energy(params, context, y):
        return sx.energies.softplus(params @ y).sum() - context @ y

    params = parallel.everywhere(np.ones((16, 40), np.float32), MESH)
    minimize = jax.jit(lambda p, c, s: sx.minimize(energy, p, c, s))
    sample = jax.jit(
        lambda p, c, s: sx.sample(energy, p, c, s[:, None], jax.random.key(0), steps=4)
    )
    return {
        "minimize": collectives(minimize.lower(params, context, start).compile()),
        "sample": collectives(sample.lower(params, context, start).compile()),
    }


def cut_loops():
    """How many loops of a large array XLA cuts for several threads, as by itself it does."""
    waves = jax.jit(lambda x: jnp.sin(x) * jnp.exp(x))
    return waves.lower(jnp.ones((1000, 1000))).compile().as_text().count('partitions":["')


def derivatives():
    parallel.use(None)
    x, truth = DATA.train.x[:48], DATA.train.y[:48].astype(np.float32)
    gaps = {}
    for mode in ("stopped", "unrolled", sx.Unrolled(last=2), sx.Implicit()):
        options = {
            "steps": 30,
            "temperature": 1.0,
            "domain": sx.Box(),
            "solver": sx.MirrorDescent(),
            "differentiate": mode,
        }

        def loss(params, x, truth, options=options):
            context = FEATURES(params, x)
            found = sx.minimize(ENERGY, params, context, jnp.full(truth.shape, 0.5), **options)
            return jnp.mean(found.energy) + jnp.mean((found.y - truth) ** 2)

        slope = jax.jit(jax.grad(loss, argnums=(0, 1)))
        one = slope(PARAMS, x, truth)
        given = parallel.everywhere(PARAMS, MESH), *parallel.split((x, truth), MESH)
        gaps[str(mode)] = gap(one, slope(*given))
    return gaps


def sharded():
    """Losses of a state cut in parts, and whether it stays so."""
    parallel.use(None)
    objective = objectives.end_to_end(predictor())
    one, _ = fit(objective, epochs=2)
    start = parallel.sharded(state(), MESH)
    got, end = fit(objective, start, epochs=2)

    def specs(tree):
        return [str(a.sharding.spec) for a in jax.tree.leaves(tree)]

    return specs(start), specs(end), gap(one, got)


def worth_it():
    """Whether `fit` spreads steps of few and of many operations: where the parameters stand after an epoch."""
    found = {}
    for name, rows in {"few rows": 64, "many rows": 40000}.items():
        data = jax.tree.map(lambda a, rows=rows: np.resize(a, (rows, *a.shape[1:])), DATA.train)
        objective = objectives.end_to_end(predictor())
        parallel.use(MESH)
        end, _ = sx.fit(objective, OPTIMIZER, state(), data, epochs=1, batch_size=rows).last()
        found[name] = len(jax.tree.leaves(end.params)[0].sharding.device_set)
    return found


def sparse_rows():
    """Those in training and prediction with eight devices in use: gaps to arrays, where they ran, what is refused."""
    parallel.use(MESH)
    rows = csr_array(np.resize(DATA.train.x, (4096, DATA.train.x.shape[1])))
    data = DATA.train._replace(x=rows, y=np.resize(DATA.train.y, (4096, 16)), mask=None)
    objective = objectives.end_to_end(predictor())

    def end(x):
        options = {"epochs": 1, "batch_size": 4096}
        return sx.fit(objective, OPTIMIZER, state(), data._replace(x=x), **options).last()[0]

    got = end(rows)
    answers = predictor(steps=100)(parallel.everywhere(PARAMS), rows)
    try:
        sx.fit(objective, OPTIMIZER, parallel.everywhere(state()), data, epochs=1).last()
        said = "nothing"
    except ValueError as error:
        said = str(error)
    parallel.use(None)
    return {
        "gaps": [
            gap(end(rows.toarray()).params, got.params),
            gap(predictor(steps=100)(PARAMS, rows.toarray()).y, answers.y),
        ],
        "devices": [len(jax.tree.leaves(a)[0].sharding.device_set) for a in (got, answers.y)],
        "said": said,
    }


def mapped_rows():
    """A training on memory-mapped x and y over eight devices: its gap to one, where it ran, what is refused."""
    with tempfile.TemporaryDirectory() as folder:
        fields = {"x": DATA.train.x, "y": DATA.train.y}
        for name, a in fields.items():
            np.save(f"{folder}/{name}.npy", np.resize(a, (512, a.shape[1])))
        data = {name: np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in fields}
        objective = objectives.end_to_end(predictor())

        def end(begin, batch_size=64):
            return sx.fit(objective, OPTIMIZER, begin, data, epochs=2, batch_size=batch_size).last()

        one, metrics = end(state())
        parallel.use(MESH)
        got, others = end(parallel.everywhere(state()))
        try:
            end(parallel.everywhere(state()), 50)
            said = "nothing"
        except ValueError as error:
            said = str(error)
        parallel.use(None)
    return {
        "gaps": [gap(one.params, got.params), abs(metrics["loss"] - others["loss"])],
        "devices": len(jax.tree.leaves(got.params)[0].sharding.device_set),
        "said": said,
    }


def edges():
    """What fails in calls that once did, by name: nothing, it is hoped."""
    rng = np.random.default_rng(0)
    params = {"C": jnp.asarray(rng.standard_normal((4, 6)), jnp.float32)}
    rows = rng.standard_normal((16, 6)).astype(np.float32)
    half = np.full((16, 6), 0.5, np.float32)
    two = jax.make_mesh((4, 2), ("batch", "model"), axis_types=(AxisType.Auto,) * 2)
    other = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    explicit = mesh_of(8, AxisType.Explicit)

    def energy(params, context, y):
        return sx.energies.softplus(params["C"] @ y).sum() - context @ y

    def bowl(params, context, y):
        return ((y - context) ** 2).sum()

    def few_meet_many():
        parallel.use(MESH)
        over = parallel.everywhere(params)
        few = sx.minimize(energy, over, rows, half).y
        many = sx.minimize(energy, over, np.resize(rows, (40000, 6)), 0.5, shape=(6,)).y
        return jnp.concatenate([few, many]) @ over["C"].T

    def a_mesh_without_the_axis():
        over = parallel.everywhere(params, other)
        return sx.minimize(energy, over, rows, half).y

    def within_set_mesh():
        with jax.set_mesh(MESH):
            sampler, key = sx.Langevin(0.1), jax.random.key(0)
            sx.sample(bowl, None, rows, half[:, None], key, sampler=sampler, steps=3)
            return sx.minimize(bowl, {"a": jnp.ones(6)}, rows, half).y

    def energies_that_close_over_a_tracer():
        context = jnp.asarray(np.resize(rows, (30001, 6)))

        def least(t):
            def tilted(params, context, y):
                return energy(params, context, y) + t * y.sum()

            return sx.minimize(tilted, params, context, 0.5, shape=(6,)).y[:3]

        several = [on(n, lambda: jax.jit(least)(0.3)) for n in (1, 8)]
        assert gap(*several) < 1e-6

    def the_same_drawn_starts():
        def start(context, key, domain):
            return domain.random(key, (len(context), 6))

        draws = sx.Predictor(energy, start=start, batch_size=128, steps=0)
        x, key = np.resize(rows, (296, 6)), jax.random.key(3)
        spread = parallel.everywhere(params, MESH), parallel.split(x, MESH)
        assert same(draws(params, x, key=key).y, draws(*spread, key=key).y)

    def no_rows():
        nothing, key = np.zeros((0, 2, 6), np.float32), jax.random.key(0)
        got = sx.sample(bowl, None, nothing[:, 0], nothing, key, sampler=sx.Langevin(0.1), steps=3)
        assert got.y.shape == (0, 2, 3, 6)

    def two_axes():
        energies = np.ones((4096, 128), np.float32)
        return sx.exact.softmin(parallel.split(energies, two), 1.0)

    def explicit_axes():
        for n in (16, 10):
            given = parallel.everywhere((rows[:n], half[:n]), explicit)
            sx.minimize(bowl, None, *given).y.block_until_ready()
        sx.exact.softmin(parallel.everywhere(np.ones((4097, 128), np.float32), explicit), 1.0)
        start = parallel.sharded(state(), explicit)
        _, end = fit(objectives.end_to_end(predictor()), start, epochs=1)
        assert any("batch" in str(a.sharding.spec) for a in jax.tree.leaves(end))

    def part_of_the_devices():
        mesh = jax.sharding.Mesh(np.array(DEVICES[4:8]), ("batch",))
        return sx.minimize(energy, parallel.sharded(params, mesh), rows, half).y

    def data_elsewhere():
        start = parallel.everywhere(state(), MESH)
        data = jax.device_put(DATA.train, DEVICES[0])
        objective = objectives.end_to_end(predictor())
        return sx.fit(objective, OPTIMIZER, start, data, epochs=1, batch_size=64).last()[0].params

    def a_refused_mesh_leaves_the_one_in_use():
        parallel.use(MESH)
        try:
            parallel.use(other)
        except ValueError:
            assert parallel.in_use() is MESH

    failed = {}
    for case in (
        few_meet_many,
        a_mesh_without_the_axis,
        within_set_mesh,
        energies_that_close_over_a_tracer,
        the_same_drawn_starts,
        no_rows,
        two_axes,
        explicit_axes,
        part_of_the_devices,
        data_elsewhere,
        a_refused_mesh_leaves_the_one_in_use,
    ):
        parallel.use(None)
        try:
            jax.block_until_ready(case())
        except Exception as error:
            failed[case.__name__] = f"{type(error).__name__}: {error}"[:300]
    return failed


gaps, curve, scores = losses()
before, after, apart = sharded()
big = np.concatenate([DATA.test.x] * 40)
lying = on(
    8, lambda: sx.minimize(ENERGY, PARAMS, FEATURES(PARAMS, big), shape=(16,), start=0.5, steps=100)
)
say(
    {
        "collectives": steps(),
        "loss gaps": gaps,
        "losses": curve,
        "f1": scores,
        "answers": answers_on_other_devices(),
        "words": words(),
        "cut loops": cut_loops(),
        "derivatives": derivatives(),
        "lie": str(lying.y.sharding.spec),
        "few": len(
            on(
                8,
                lambda: sx.minimize(
                    ENERGY, PARAMS, FEATURES(PARAMS, DATA.test.x[:8]), 0.5, shape=(16,)
                ),
            ).y.sharding.device_set
        ),
        "worth it": worth_it(),
        "sparse rows": sparse_rows(),
        "mapped rows": mapped_rows(),
        "edges": edges(),
        "environment": ENVIRONMENT,
        "sharded state": before,
        "sharded state after": after,
        "sharded loss": apart,
    }
)
