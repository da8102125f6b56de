"""The formulas of docs/do/scale.md beside compiled programs: memory, operations and collectives on eight devices.

Each design of the library (data parallel, state cut in parts, labels spread, touched rows, shortlists) is compiled at
three sizes for eight simulated devices of a CPU and its program read: what its arguments and temporaries take
on a device, the operations of its products, how many collectives a device runs and the bytes of their results. Claims:
collectives, arguments and operations are those of the formulas, temporaries to a factor of 1.7.
`--only compiled` makes this part, 3 minutes; `--only devices` compiles for 64, at one size; `--only constants` times
what the page needs and no other benchmark has, a minute: an epoch's order, a checkpoint, an Adam step; `--only plan`
prints the formulas at 64 devices and a million labels. Nothing runs on many devices here: sizes are checked, not times.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from benchmarks import formulas, harness
from benchmarks import scale_constants as constants
from benchmarks.formulas import Counts, Size

PARTS = "compiled", "devices", "constants", "plan"
SIZES = (
    Size(64, 512, 256, 32, 16),
    Size(32, 4096, 512, 64, 32, T=10),
    Size(128, 2048, 1024, 64, 64),
)
MANY = Size(256, 4096, 128, 64, 64, T=3, k=4, P=64)
PLAN = Size(16_384, 10**6, 1_000, 64, 64, k=1000, P=64)
"""Rows of x are arrays here, on a mesh; of touched rows a million features, and the batch of one device."""
TOUCHED = (28_672, 4_096), (20_480, 4_096)
"""Entries stored and rows touched of x (100 entries a row) and y (8) by 256 examples of the plan, with their room."""
DESIGNS = {
    "data parallel, training": (formulas.data_parallel, True),
    "data parallel, inference": (formulas.data_parallel, False),
    "state in parts, training": (formulas.in_parts, True),
    "labels spread, training": (formulas.of_labels, True),
    "labels spread, inference": (formulas.of_labels, False),
    "touched rows, training": (formulas.touched_rows, True),
    "shortlist, inference": (formulas.shortlists, False),
}


def measure(only: str | None) -> list[dict[str, Any]]:
    """A row for each design, size and quantity, and for each constant."""
    rows = []
    if only in (None, "compiled"):
        simulated()
        rows += [row for name in DESIGNS for size in SIZES for row in compared(name, size)]
    if only == "devices":
        simulated(MANY.P)
        several = [name for name in DESIGNS if not name.startswith("touched")]
        rows += [row for name in several for row in compared(name, MANY)]
    if only in (None, "constants"):
        rows += constants.measured()
    if only in (None, "plan"):
        rows += planned()
    return rows


def planned() -> list[dict[str, Any]]:
    """The formulas at the size of the plan, a row for each design."""
    rows = []
    for name, (formula, trained) in DESIGNS.items():
        size = PLAN if trained else PLAN._replace(T=20)
        extra = TOUCHED if name.startswith("touched") else ()
        if name.startswith(("touched", "labels")):
            size = size._replace(B=256, D=10**6 if extra else size.D)
        rows.append({"plan": name} | formula(size, trained, *extra)._asdict())
    return rows


def simulated(devices: int = 8) -> None:
    """So many devices of a CPU; before anything is computed."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)


def compared(name: str, size: Size) -> list[dict[str, Any]]:
    """A design's compiled program beside its formula at one size, a row for each quantity."""
    from spen_jax.blocks import block_sizes

    formula, trained = DESIGNS[name]
    program, extra = made(name, size)
    labels = extra[1][1] if extra else size.L
    size = size._replace(blocks=block_sizes(size.B, labels))
    by_formula = formula(size, trained, *extra)
    found = counted(program)
    return [
        {"design": name, "size": dict(size._asdict()), "what": what, "formula": a, "compiled": b}
        for what, a, b in zip(Counts._fields, by_formula, found, strict=True)
    ]


def made(name: str, s: Size) -> tuple[Any, tuple[Any, ...]]:
    """A design's compiled program, and what its formula needs to know beside the size."""
    import jax
    import numpy as np
    import optax

    import spen_jax as sx

    rng = np.random.default_rng(0)
    x = rng.standard_normal((s.B, s.D), dtype=np.float32)
    y = (rng.random((s.B, s.L)) < 0.05).astype(np.float32)
    kind = sx.SPEN if name.startswith(("data", "state")) else sx.energies.LabelSPEN
    model = kind(sx.FeatureNetwork(s.L, (s.H,)), s.M, entropy=1.0)
    features, energy = sx.functions_of(model)
    params = jax.jit(model.init)(jax.random.key(0), x[:1], y[:1])["params"]
    predictor = sx.Predictor(energy, features, start=sx.logits_of(model), steps=s.T)
    batch = {"x": x, "y": y}
    if name.startswith("touched"):
        return touching(sx.objectives.end_to_end(predictor), params, s)
    if name.startswith("labels"):
        mesh = sx.parallel.label_mesh()
        put = lambda tree: sx.parallel.by_label(tree, s.L, mesh)  # noqa: E731
    else:
        mesh = jax.make_mesh((s.P,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        place = sx.parallel.sharded if name.startswith("state") else sx.parallel.everywhere
        put = lambda tree: place(tree, mesh)  # noqa: E731
    there = sx.parallel.split(batch, mesh)
    if name.endswith("training"):
        from spen_jax.training.steps import compiled_step

        objective, optimizer = sx.objectives.end_to_end(predictor), optax.adam(1e-3)
        state = sx.training.init(params, optimizer, jax.random.key(1))
        spread = put(state)
        given = objective, optimizer, sx.parallel.places(spread), spread, there, None
        program = compiled_step.lower(*given).compile()
    else:
        answer: Any = predictor
        if name.startswith("shortlist"):
            answer = sx.Shortlist(model, s.k, steps=s.T)  # pyright: ignore[reportArgumentType]
        infer = jax.jit(lambda params, x: answer(params, x).y)
        program = infer.lower(put(params), there["x"]).compile()
    return program, ()


def touching(objective: Any, params: Any, s: Size) -> tuple[Any, tuple[Any, ...]]:
    """A step on touched rows, on one device: `training.step_on` compiled with its rows as arguments."""
    import jax
    import numpy as np
    import optax
    from scipy import sparse

    import spen_jax as sx
    from spen_jax.training import feeding, steps

    rng = np.random.default_rng(0)

    def drawn(width, each):
        columns = rng.integers(0, width, (10 * s.B, each), dtype=np.int32)
        starts = np.arange(0, columns.size + 1, each, dtype=np.int32)
        ones = np.ones(columns.size, np.float32)
        return sparse.csr_array((ones, columns.ravel(), starts), (10 * s.B, width))

    tables = {"network/hidden_0/kernel": "x"} | dict.fromkeys(("W", "bias", "C"), "y")
    optimizer = sx.training.touching(optax.adam(1e-3), tables)
    data = sx.sparse.matrices(data={"x": drawn(s.D, s.on), "y": drawn(s.L, s.own)})
    rows = np.arange(s.B)
    found = feeding.cut(optimizer, data, rows)
    state = steps.begun(optimizer, sx.training.init(params, optimizer, jax.random.key(1)))

    def step(state, found):
        return steps.step_on(objective, optimizer, state, data, rows, found)

    donated = jax.jit(step, donate_argnums=0)
    parts = {name: part for name, part in zip(("x", "y"), found.parts, strict=True)}
    entries = tuple(len(parts[name].values) for name in ("x", "y"))
    touched = tuple(len(found.columns[name]) for name in ("x", "y"))
    return donated.lower(state, found).compile(), (entries, touched)


def counted(program: Any) -> Counts:
    """What a compiled program says of itself."""
    memory = program.memory_analysis()
    said = list(lines(program.as_text()))
    results = [(times, bytes_of(shapes)) for times, kind, shapes in said if kind != "dot"]
    return Counts(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        sum(times * float(work) for times, kind, work in said if kind == "dot"),
        sum(times for times, _ in results),
        sum(times * size for times, size in results),
    )


_KINDS = "all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter"
_WIDTHS = {"pred": 1, "f32": 4, "s32": 4, "u32": 4}


def lines(text: str) -> Iterator[tuple[int, str, str]]:
    """(how often a device runs it, its kind, its result) of each collective of a program; of a "dot" its operations.

    Through loops and calls, but not the branches that only a step which is not finite takes.
    """
    bodies, entry, name = {}, "", ""
    for line in text.splitlines():
        if begun := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = begun[2]
            bodies[name] = []
            entry = name if begun[1] else entry
        elif name:
            bodies[name].append(line)

    def within(name, times):
        shapes = {}
        for line in bodies.get(name, ()):
            if made := re.match(r" +(?:ROOT )?%?([\w.\-]+) = (\S+)", line):
                shapes[made[1]] = made[2]
            if said := re.search(rf" = (.*?) ({_KINDS})(?:-start)?\(", line):
                yield times, said[2], said[1]
            elif dot := re.search(
                r" = (\S+) dot\(%?([\w.\-]+),.*lhs_contracting_dims={([\d,]*)", line
            ):
                over = [dimensions(shapes[dot[2]])[int(i)] for i in dot[3].split(",") if i]
                yield times, "dot", str(2 * math.prod([*dimensions(dot[1]), *over]))
            elif loop := re.search(r" while\(.*body=%?([\w.\-]+)", line):
                count = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                if not count and list(within(loop[1], 1)):
                    raise ValueError(f"a loop of unknown length says or multiplies: {line[:120]}")
                yield from within(loop[1], times * int(count[1])) if count else ()
            else:
                for called in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line):
                    yield from within(called, times)

    return within(entry, 1)


def dimensions(shape: str) -> list[int]:
    """Of an array such as f32[8,16]{1,0}."""
    found = re.match(r"\w+\[([\d,]*)\]", shape)
    return [int(n) for n in found[1].split(",") if n] if found else []


def bytes_of(shapes: str) -> int:
    """Of the arrays that a line of a compiled program gives."""
    found = re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"/\*.*?\*/", "", shapes))
    return sum(_WIDTHS[kind] * math.prod(map(int, filter(None, n.split(",")))) for kind, n in found)


def tables(rows: list[dict[str, Any]]) -> list[str]:
    """Ratios of each design at each size; the plan; the constants."""
    designs = {}
    for row in rows:
        if "design" in row:
            none = not row["formula"] and not row["compiled"]
            ratio = 1.0 if none else row["compiled"] / row["formula"]
            at = row["design"], row["size"]["B"], row["size"]["L"], row["size"]["T"]
            designs.setdefault(at, []).append((ratio, row["compiled"]))
    first = [
        [name, f"{B}", f"{L:,}", f"{T}", *(f"{a:.3f} ({c:,.0f})" for a, c in found)]
        for (name, B, L, T), found in designs.items()
    ]
    second = [
        [r["plan"], *(f"{r[name]:.3g}" for name in Counts._fields)] for r in rows if "plan" in r
    ]
    third = [[r["constant"], f"{r['value']:.3g}", r["unit"]] for r in rows if "constant" in r]
    titles = ["design", "B", "L", "T"], ["plan"], ["constant", "value", "unit"]
    names = [name.replace("_", " ") for name in Counts._fields]
    parts = ([*titles[0], *names], first), ([*titles[1], *names], second), (titles[2], third)
    return [harness.table(headers, cells) for headers, cells in parts if cells]


if __name__ == "__main__":
    for text in tables(harness.on_one_thread(__file__, __doc__, measure, PARTS)):
        print(f"\n{text}")
