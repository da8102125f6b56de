"""Eight simulated devices against one, and the collectives of what is compiled; run in a process of their own."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import spen_jax as sx
from spen_jax.parallel.calls import operations

HERE = Path(__file__).parent


def run(script, *arguments, **environment):
    """What a script of this folder prints as JSON, in a process whose devices are not settled yet."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def eight():
    return run("on_eight_devices.py")


@pytest.mark.long
def test_a_training_step_over_devices_sums_once(eight):
    assert set(eight["collectives"]) == {"end to end", "max margin", "implicit", "explicit axes"}
    for kind, found in eight["collectives"].items():
        assert found == {"all-reduce": 1}, kind


@pytest.mark.slow
def test_fully_sharded_training_gathers_and_keeps_its_parts(eight):
    assert eight["sharded state"] == eight["sharded state after"]
    assert "batch" in str(eight["sharded state"]) and eight["sharded loss"] < 1e-5


@pytest.mark.slow
def test_losses_over_a_hundred_steps_are_those_of_one_device(eight):
    gaps = eight["loss gaps"]
    assert set(gaps) == {
        "end to end",
        "max margin",
        "dropout and drawn starts",
        "100 rows do not divide",
    }
    assert max(gaps.values()) < 1e-5
    assert eight["f1"][0] == eight["f1"][1]


@pytest.mark.slow
def test_answers_are_those_of_one_device_in_blocks_of_the_same_size_to_the_bit(eight):
    exact = {name: gap for name, gap in eight["answers"].items() if name.endswith("to the bit")}
    assert len(exact) >= 9 and set(exact.values()) == {0.0}
    assert len(eight["answers"]) >= 16 and max(eight["answers"].values()) < 1e-5


@pytest.mark.long
def test_inference_and_sampling_say_no_word_between_devices(eight):
    assert eight["words"] == {"minimize": {}, "sample": {}}


@pytest.mark.slow
def test_derivatives_of_answers_are_those_of_one_device(eight):
    assert len(eight["derivatives"]) >= 4 and max(eight["derivatives"].values()) < 1e-5


@pytest.mark.slow
def test_results_lie_on_the_devices_that_found_them(eight):
    assert eight["lie"] == "P('batch',)"


@pytest.mark.slow
def test_few_numbers_run_on_one_device(eight):
    assert eight["few"] == 1


@pytest.mark.slow
def test_calls_on_meshes_of_other_shapes_do_not_fail(eight):
    assert eight["edges"] == {}


@pytest.mark.slow
def test_a_step_of_few_operations_stays_on_one_core(eight):
    assert eight["worth it"] == {"few rows": 1, "many rows": 8}


@pytest.mark.slow
def test_sparse_rows_run_on_one_device_whatever_is_in_use(eight):
    found = eight["sparse rows"]
    assert max(found["gaps"]) < 1e-5 and found["devices"] == [1, 1]
    assert found["said"].startswith("sparse rows are trained on one device")


@pytest.mark.slow
def test_memory_mapped_rows_go_to_the_devices_that_train_on_them(eight):
    found = eight["mapped rows"]
    assert max(found["gaps"]) < 1e-5 and found["devices"] == 8
    assert found["said"].startswith("memory-mapped data on 8 devices need a batch size that these")


@pytest.mark.slow
def test_loops_are_not_cut_for_several_threads(eight):
    assert eight["cut loops"] == 0


@pytest.mark.slow
def test_the_flags_are_not_handed_to_other_programs(eight):
    assert "XLA_FLAGS" not in eight["environment"]


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_train_as_one_does(eight):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    command = [sys.executable, str(HERE / "on_two_processes.py"), str(port)]
    both = [
        subprocess.Popen(
            [*command, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=240) for process in both]
    for process, (_, errors) in zip(both, outputs, strict=True):
        assert process.returncode == 0, errors[-4000:]
    found = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert found[0] == found[1] and found[0]["devices"] == 4
    assert found[0]["collectives"] == {"all-reduce": 1}
    for got, one in zip(found[0]["losses"], eight["losses"], strict=True):
        assert abs(got - one) < 1e-5 * abs(one)
    assert found[0]["f1"] == eight["f1"][0]


def test_too_late_is_said():
    import jax

    jax.devices()
    with pytest.raises(
        RuntimeError, match=r"all_cores\(\) comes too late.*right after the imports"
    ):
        sx.parallel.all_cores(3)


@pytest.mark.parametrize("cores", [0, 1.5])
def test_a_number_of_cores_is_whole(cores):
    with pytest.raises(ValueError, match="whole number, 1 or more"):
        sx.parallel.all_cores(cores)


def test_a_mesh_without_an_axis_for_the_batch_is_refused():
    import jax
    from jax.sharding import AxisType

    mesh = jax.make_mesh((1, 1), ("rows", "model"), axis_types=(AxisType.Auto,) * 2)
    with pytest.raises(ValueError, match="axis named 'batch', or one axis only"):
        sx.parallel.use(mesh)
    assert sx.parallel.in_use() is None


def test_operations_are_counted_through_loops_and_branches():
    import jax
    import jax.numpy as jnp
    from jax import lax

    a, b, image, kernel = map(jnp.ones, ((4, 8), (8, 8), (1, 9, 9, 3), (2, 2, 3, 5)))
    product, layout = 2 * 4 * 8 * 8, ("NHWC", "HWIO", "NHWC")

    def count(function, *arguments):
        return operations(jax.make_jaxpr(function)(*arguments).jaxpr)

    def loop(a, b):
        return lax.fori_loop(0, 5, lambda _, a: a @ b, a)

    def branches(a, b):
        return lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) @ b)

    def convolution(image, kernel):
        return lax.conv_general_dilated(image, kernel, (1, 1), "VALID", dimension_numbers=layout)

    assert count(jnp.matmul, a, b) == product
    assert count(loop, a, b) == 5 * product
    assert count(branches, a, b) == 2 * product
    assert count(convolution, image, kernel) == 2 * (8 * 8 * 5) * (2 * 2 * 3)


def test_without_a_mesh_nothing_is_moved():
    tree = {"a": 1.0}
    for put in (sx.parallel.split, sx.parallel.everywhere, sx.parallel.sharded):
        assert put(tree) is tree


@pytest.mark.slow
def test_the_page_runs_as_printed():
    text = (HERE.parent / "docs/do/parallel.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    assert code.count("sx.parallel") >= 3
    clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=clean
    )
    assert done.returncode == 0 and "spec=P('batch',)" in done.stdout, done.stderr[-2000:]


@pytest.mark.slow
def test_what_was_compiled_is_kept_for_later_processes(tmp_path):
    code = f"""
import jax
import spen_jax as sx

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
assert str(sx.parallel.keep_compiled({str(tmp_path / "new" / "cache")!r})).endswith("cache")
found = sx.minimize(lambda p, c, y: ((y - p * c) ** 2).sum(), 0.5, jax.numpy.ones((8, 3)), 0.1, shape=(3,))
print(float(found.y.sum()), hits.count("/jax/compilation_cache/cache_hits"))
"""
    both = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    (one, cold), (two, warm) = (process.stdout.split() for process in both)
    assert one == two and int(cold) == 0 and int(warm) >= 1


def test_a_cache_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="needs a folder, but .*file is a file"):
        sx.parallel.keep_compiled(tmp_path / "file")


@pytest.mark.parametrize("refused", [False, True])
def test_memory_is_kept_by_all_settings_or_by_none(monkeypatch, refused):
    asked = []

    def mallopt(which, value):
        asked.append(which)
        return int(not refused)

    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    assert sx.parallel.keep_memory() is not refused
    assert len(asked) == (1 if refused else 4)
