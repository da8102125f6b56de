"""Trainings of several processes: killed and gone on with by another number of them, stopped together, told apart."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import parallel
from spen_jax.cli import hosts
from spen_jax.cli.running import main
from spen_jax.cli.saying import Usage
from spen_jax.estimators import load
from spen_jax.training import sums

HERE = Path(__file__).parent
HEARTBEAT = 10  # seconds, in on_hosts.py
EPOCHS, STEPS = 4, 12


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def processes(count, command, folder=None, environment=lambda number: {}):
    """So many of them, each with its own environment."""
    clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return [
        subprocess.Popen(
            command(number),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=clean | {"PYTHONPATH": f"{HERE.parent}:{HERE}"} | environment(number),
        )
        for number in range(count)
    ]


def started(count, folder, kind, pause=0.0):
    script, port = HERE / "on_hosts.py", free_port()
    return processes(
        count,
        lambda i: [sys.executable, *map(str, (script, port, count, i, folder, kind, pause))],
    )


def finished(running, code=0):
    """What each printed last, once all have ended so."""
    outputs = [process.communicate(timeout=120) for process in running]
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == code, errors[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def until(running, step):
    """Waits until the first process is at a step."""
    for line in running[0].stdout:
        with contextlib.suppress(ValueError):
            if json.loads(line).get("step") == step:
                return
    pytest.fail(running[0].stderr.read()[-3000:])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("straight"), {}

    def of(kind):
        kind = "mapped" if kind == "mapped" else "whole"
        if kind not in found:
            (found[kind],) = finished(started(1, folder / kind, kind))
        return found[kind]

    return of


def close(found, straight):
    assert {*found["losses"]} <= {*straight["losses"]} and found["losses"]
    for epoch, loss in found["losses"].items():
        assert abs(loss / straight["losses"][epoch] - 1) < 1e-5
    assert abs(found["sum"] / straight["sum"] - 1) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, then",
    [
        ("whole", 1),
        pytest.param("cut", 4, marks=pytest.mark.long),
        pytest.param("cut", 1, marks=pytest.mark.long),
        pytest.param("mapped", 4, marks=pytest.mark.long),
    ],
)
def test_what_two_began_and_were_killed_in_another_number_ends(tmp_path, straight, kind, then):
    chance = random.Random(f"{kind} {then}")
    running = started(2, tmp_path / "a", kind)
    until(running, chance.randrange(2, EPOCHS * STEPS - 8))
    time.sleep(chance.uniform(0, 0.1))  # a checkpoint is written after each step
    for process in running:
        process.kill()
    for process in running:
        process.communicate()
    found = finished(started(then, tmp_path / "a", kind))
    assert len({json.dumps(each["losses"]) for each in found}) == 1
    close(found[0], straight(kind))
    names = {p.name for p in (tmp_path / "a").iterdir()}
    assert names == {".lock", f"{EPOCHS * (STEPS + 1) - 1}", f"{EPOCHS * (STEPS + 1)}"}


@pytest.mark.long
@pytest.mark.slow
def test_each_reads_its_part_of_mapped_data(tmp_path, straight):
    one, two = finished(started(2, tmp_path / "a", "mapped"))
    close(one, straight("mapped"))
    again = EPOCHS * (8 + 7)  # a batch whose row is not finite is looked at one by one, by both
    assert one["rows"] == two["rows"] == EPOCHS * STEPS * 8 / 2 + again
    assert straight("mapped")["rows"] == EPOCHS * STEPS * 8 + again


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("who", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_signal_to_one_stops_all_after_the_same_step(tmp_path, straight, who):
    running = started(2, tmp_path / "a", "cut", 0.05)
    until(running, 5)
    running[who].send_signal(signal.SIGTERM)
    one, two = finished(running, 143)
    assert one == two and 5 <= one["step"] < 48
    newest = max(int(p.name) for p in (tmp_path / "a").iterdir() if p.name.isdecimal())
    assert newest == one["step"] + one["step"] // (STEPS + 1)
    (found,) = finished(started(1, tmp_path / "a", "cut"))
    close(found, straight("cut"))


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, pytest.param(1, marks=pytest.mark.long)])
def test_one_that_dies_does_not_leave_the_other_waiting(tmp_path, who):
    running = started(2, tmp_path / "a", "whole", 0.02)
    until(running, 3)
    running[who].kill()
    began = time.monotonic()
    running[1 - who].communicate(timeout=120)
    assert running[1 - who].returncode != 0 and time.monotonic() - began < HEARTBEAT + 20
    running[who].communicate()


# The command


def tickets(path):
    lines = ["hours,priority,tags"]
    rng = np.random.default_rng(0)
    for hours, priority in rng.uniform(0, 10, (400, 2)):
        tags = [
            name for name, on in (("a", hours > 5), ("b", priority > 6), ("c", hours < 3)) if on
        ]
        lines.append(f'{hours:.3f},{priority:.3f},"{";".join(tags)}"')
    path.write_text("\n".join(lines) + "\n")
    return path


def commands(count, environment, *arguments):
    program = [sys.executable, "-m", "spen_jax", "train", *map(str, arguments)]
    return processes(count, lambda number: program, environment=environment)


def under_slurm(number, job):
    """What `srun --ntasks=2` sets, as far as JAX looks at it; the job's number decides the port."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


def by_hand(number, port, count=2):
    return {hosts.ADDRESS: f"localhost:{port}", hosts.COUNT: str(count), hosts.NUMBER: str(number)}


@pytest.mark.long
@pytest.mark.slow
def test_a_command_that_slurm_began_ends_in_two_shells_at_the_model_of_one(tmp_path):
    source, options = tickets(tmp_path / "a.csv"), ("--labels", "tags", "--epochs", "60")
    options += ("--set", "members=1", "early_stopping=False", "learning_rate=0.0005")
    job = random.randrange(2**12)
    running = commands(2, lambda i: under_slurm(i, job), source, "--out", tmp_path / "m", *options)
    lines = tmp_path / "m/metrics.jsonl"
    while not lines.exists() or not lines.read_text():
        assert all(process.poll() is None for process in running), running[0].communicate()[1]
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    ended = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [143, 143], ended
    assert "terminated; spen-jax train --resume" in ended[0][1]
    port = free_port()
    again = commands(2, lambda i: by_hand(i, port), "--resume", tmp_path / "m", "--json")
    first, second = [process.communicate(timeout=120) for process in again]
    assert [process.returncode for process in again] == [0, 0], first[1] + second[1]
    assert json.loads(first[0])["epochs"] == 60 and second[0] == ""
    assert {p.name for p in (tmp_path / "m").iterdir()} >= {"model.safetensors", "summary.json"}
    assert main(["train", *map(str, (source, "--out", tmp_path / "one", *options)), "--quiet"]) == 0
    one, two = (load(tmp_path / name / "model.safetensors") for name in ("one", "m"))
    x = np.random.default_rng(1).uniform(0, 10, (50, 2))
    np.testing.assert_allclose(one.predict_proba(x), two.predict_proba(x), atol=2e-3)
    losses = [
        [json.loads(line)["training_loss"] for line in text.splitlines()]
        for text in ((tmp_path / name / "metrics.jsonl").read_text() for name in ("one", "m"))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
def test_what_is_wrong_for_the_first_ends_all(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/mine").write_text("")
    source, port = tickets(tmp_path / "a.csv"), free_port()
    running = commands(
        2, lambda i: by_hand(i, port), source, "--out", tmp_path / "m", "--labels", "tags"
    )
    ended = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [1, 1], ended
    assert "is not an empty folder" in ended[0][1]


def test_who_started_a_process_is_found_in_its_environment():
    assert hosts.settings({}) is None
    assert hosts.settings({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}) is None  # sbatch, no step
    assert hosts.settings(under_slurm(0, 1)) == {}
    assert hosts.settings(under_slurm(0, 1) | {"SLURM_NTASKS": "1"}) is None
    assert hosts.settings(by_hand(1, 1234)) == {
        "coordinator_address": "localhost:1234",
        "num_processes": 2,
        "process_id": 1,
    }
    assert hosts.settings(by_hand(0, 1234, 1)) is None


@pytest.mark.parametrize(
    "environment, words",
    [
        ({hosts.COUNT: "2", hosts.NUMBER: "0"}, "need an address host:port"),
        ({hosts.ADDRESS: "a:1", hosts.COUNT: "two", hosts.NUMBER: "0"}, "two whole numbers"),
        ({hosts.ADDRESS: "a:1", hosts.COUNT: "2"}, "JAX_PROCESS_ID=$"),
        (by_hand(2, 1234), "from 0 to less than JAX_NUM_PROCESSES, got 2 of 2"),
    ],
)
def test_an_environment_that_does_not_go_together_is_refused(environment, words):
    with pytest.raises(Usage, match=words):
        hosts.settings(environment)


# In one process


@pytest.mark.parametrize(
    "dtype", ["float32", "int8", "bool", "complex64", "bfloat16", "uint16", "int32"]
)
def test_sums_on_a_device_are_those_on_the_host(dtype):
    a = (np.random.default_rng(0).standard_normal((3, 8, 5)) * 50).astype(jnp.dtype(dtype))
    assert [*np.asarray(sums.of_devices({"a": jnp.asarray(a)})["a"])] == sums.of_host(a)


@pytest.mark.parametrize("dtype", ["float64", "int64", "complex128"])
def test_sums_of_wide_numbers_on_a_device_are_those_on_the_host(x64, dtype):
    a = (np.random.default_rng(0).standard_normal((2, 7)) * 50).astype(dtype)
    assert [*np.asarray(sums.of_devices({"a": jnp.asarray(a)})["a"])] == sums.of_host(a)


def test_sums_tell_every_change_of_a_bit_and_every_exchange():
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    others = [a[::-1], a.T, a.reshape(4, 3), a.astype(np.int32)]
    for place in range(a.nbytes * 8):
        changed = a.copy()
        changed.reshape(-1).view(np.uint8)[place // 8] ^= 1 << place % 8
        others.append(changed)
    found = [sums.sums_of({"a": b})["a"] for b in (a, *others)]
    assert len({*found}) == len(found)


def test_one_process_hears_itself():
    assert parallel.gathered("a") == ["a"] and parallel.leading() and not parallel.several()
    with pytest.raises(KeyError), parallel.together(ValueError):
        raise KeyError("its own")


@pytest.mark.slow
def test_the_pages_on_several_processes_run_as_printed(tmp_path):
    """Two processes, each of the blocks in both; where the cluster would tell the address, this does."""
    text = [
        (HERE.parent / f"docs/do/{page}.md").read_text() for page in ("parallel", "reliability")
    ]
    first, second = (re.search(r"```python hosts\n(.*?)```", page, re.S)[1] for page in text)
    (tmp_path / "both.py").write_text(f"""
{first}
import jax.numpy as jnp, optax

assert jax.process_count() == 2
jax.distributed.initialize = lambda: None  # it has been
target = jnp.arange(8.0)[:, None] * jnp.ones((8, 4))
data, optimizer = {{"x": target, "y": target}}, optax.sgd(0.1)
state = sx.training.init({{"w": jnp.zeros(4)}}, optimizer, jax.random.key(0))


def objective(params, batch, key):
    loss = jnp.mean((params["w"][None] - batch["y"]) ** 2)
    return loss, {{"loss": loss}}

{second}
print('{{"over": true}}')
""")
    port = free_port()
    command = [sys.executable, "both.py", f"localhost:{port}", "2"]
    running = processes(2, lambda i: [*command, str(i)], tmp_path)
    assert finished(running) == [{"over": True}] * 2
    assert (tmp_path / "runs/a/checkpoints").is_dir()
