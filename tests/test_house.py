"""The shape of the code: rooms that import one way, short files and functions, few arguments."""

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORDER = (
    "starting types arguments trees numbers serving bundles tiles sparse checks convolutions parallel blocks domains "
    "networks exact energies inference sampling losses predictor shortlists objectives training interop exporting "
    "estimators cli __main__"
).split()
ALONE = (
    "data",
    "metrics",
)  # these read numbers only; training and what comes after it may read and measure
PACKAGE = sorted((ROOT / "spen_jax").rglob("*.py"))
FILES = PACKAGE + sorted((ROOT / "experiments").rglob("*.py"))


def room_of(path):
    return path.relative_to(ROOT / "spen_jax").parts[0].removesuffix(".py")


def imports(path):
    """(module, name) of everything of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "spen_jax":
            yield from ((node.module, alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from ((a.name, "") for a in node.names if a.name.split(".")[0] == "spen_jax")


def rooms_imported(path):
    for module, name in imports(path):
        parts = [*module.split("."), name]
        yield parts[1] if len(parts) > 1 else ""


def test_a_room_imports_only_what_stands_left_of_it():
    wrong = []
    for path in PACKAGE:
        room = room_of(path)
        if room == "__init__":
            continue
        for other in rooms_imported(path):
            reads = room in ("training", "interop", "exporting", "estimators", "cli")
            allowed = {room, *ALONE} if reads else {room}
            left = ORDER[: ORDER.index(room)] if room in ORDER else ["numbers"]
            if other not in allowed | {*left}:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert wrong == []


def test_within_a_room_no_imports_run_in_a_circle():
    graph = {}
    for path in PACKAGE:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        graph[name] = {m for m, _ in imports(path)} | {f"{m}.{n}" for m, n in imports(path)}
    done, path = set(), []

    def visit(name):
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name in done or name not in graph:
            return
        path.append(name)
        for other in graph[name]:
            visit(other)
        done.add(path.pop())

    for name in graph:
        if not name.endswith("__init__"):
            visit(name)


def test_no_private_name_crosses_modules():
    private = [
        f"{path.relative_to(ROOT)}: {module}.{name}"
        for path in FILES
        for module, name in imports(path)
        if name.startswith("_") and name != "__version__"
    ]
    assert private == []


def code_lines(function, lines):
    """The lines of a function without its docstring, comments and blank lines."""
    body = function.body
    docstring = (
        body[0]
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        else None
    )
    hidden = range(docstring.lineno, docstring.end_lineno + 1) if docstring else ()
    numbers = range(function.lineno, function.end_lineno + 1)
    text = (lines[n - 1].strip() for n in numbers if n not in hidden)
    return sum(bool(line) and not line.startswith("#") for line in text)


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


def test_files_and_functions_are_short():
    long = []
    for path in FILES:
        lines = path.read_text().splitlines()
        if len(lines) > 350:
            long.append(f"{path.relative_to(ROOT)}: {len(lines)} lines")
        for function in functions(path):
            if (n := code_lines(function, lines)) > 60:
                long.append(f"{path.relative_to(ROOT)}: {function.name} has {n} lines of code")
    assert long == []


def arguments(function):
    given = function.args
    return [
        a.arg
        for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)
        if a.arg not in ("self", "cls")
    ]


def test_public_functions_take_few_arguments():
    counts = {}
    for path in PACKAGE:
        tree = ast.parse(path.read_text())
        classes = [n for n in tree.body if isinstance(n, ast.ClassDef)]
        for node in [n for scope in (tree, *classes) for n in scope.body]:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                counts[f"{path.relative_to(ROOT)}: {node.name}"] = len(arguments(node))
    assert {name: n for name, n in counts.items() if n > 8} == {}
    assert statistics.median(counts.values()) <= 4


def test_all_rooms_are_in_the_order():
    rooms = {room_of(path) for path in PACKAGE} - {"__init__"}
    assert rooms == {*ORDER, *ALONE}
