"""The formulas of docs/do/scale.md against what is compiled for eight simulated devices, at one size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import formulas, scale

ROOT = Path(__file__).parents[1]
CODE = """
import json
from benchmarks import scale
scale.simulated()
names = {names}
size = scale.Size(16, 256, 64, 8, 8, T=3, k=2)
print(json.dumps([row for name in names for row in scale.compared(name, size)]))
"""


def compared(*names):
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": path}
    command = [sys.executable, "-c", CODE.format(names=list(names))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
@pytest.mark.slow
def test_the_formulas_are_what_the_compiled_programs_take():
    rows = compared(*scale.DESIGNS)
    assert {row["design"] for row in rows} == {*scale.DESIGNS}
    for row in rows:
        if row["what"] == "temporaries":  # whose factors were fitted, at other sizes
            assert 0.4 < row["compiled"] / row["formula"] < 1.8, row
        else:
            assert row["compiled"] == row["formula"], row


PROGRAM = """HloModule two
%adds (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}
%body (in: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %y = f32[8,4]{1,0} get-tuple-element(%in), index=1
  %C = f32[4,3]{1,0} constant({...})
  %dot.1 = f32[8,3]{1,0} dot(%y, %C), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %sum = f32[8,3]{1,0} all-reduce(%dot.1), to_apply=%adds
}
ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %w = (s32[], f32[8,4]{1,0}) while(%p), body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %all = (f32[2,4]{1,0}, /*index=1*/pred[]) all-gather(%w), dimensions={0}
}
"""


def test_collectives_and_products_of_a_program_are_counted_through_its_loops():
    found = list(scale.lines(PROGRAM))
    assert [(times, kind) for times, kind, _ in found] == [
        (5, "dot"),
        (5, "all-reduce"),
        (1, "all-gather"),
    ]
    assert found[0][2] == str(2 * 8 * 3 * 4)
    assert [scale.bytes_of(shapes) for _, _, shapes in found[1:]] == [96, 33]


def test_a_loop_of_unknown_length_that_says_something_is_refused():
    with pytest.raises(ValueError, match="unknown length"):
        list(scale.lines(PROGRAM.replace("known_trip_count", "other")))


def test_one_device_needs_what_all_need_where_there_is_one():
    size = formulas.Size(32, 100, 50, 8, 4, P=1)
    whole, spread = formulas.data_parallel(size, True), formulas.of_labels(size, True)
    assert whole[:1] == spread[:1] and whole.operations == spread.operations
    eight = formulas.data_parallel(size._replace(P=8), True)
    assert eight.operations == whole.operations / 8 and eight.arguments < whole.arguments
    touched = [
        formulas.touched_rows(size._replace(D=D), True, (4096, 4096), (40, 30)) for D in (50, 5000)
    ]
    assert touched[0][1:] == touched[1][1:]  # all but the state itself
