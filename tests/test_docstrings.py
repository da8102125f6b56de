"""What the docstrings of public names say: parameters and fields, errors, shapes."""

import ast
import functools
import importlib
import inspect
import re
import sys
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

import spen_jax

ROOMS = (
    "domains networks energies exact inference sampling losses objectives training metrics data parallel sparse "
    "tiles convolutions interop serving estimators cli"
).split()
TOP = "Predictor", "Shortlist", "export", "load"  # of no room
OURS = "spen_jax", __name__
AXIS = r"(?:\.\.\.|\*\w+|\d{1,3}|(?:\d+ ?)?[A-Za-z]\w{0,2}'?(?: (?:[-+/] )?\w{1,2})*)"
SHAPE = re.compile(rf"(?<!\w)\((?:\.\.\.|{AXIS},(?: {AXIS},?)*)?\)|\b(?:number|scalar)s?\b")


def public_names():
    """Each public name of the reference, with its value."""
    for room in ROOMS:
        module = importlib.import_module(f"spen_jax.{room}")
        own = [
            n for n, a in vars(module).items() if getattr(a, "__module__", "") == module.__name__
        ]
        for name in getattr(module, "__all__", own):
            if not name.startswith("_"):
                yield f"{room}.{name}", getattr(module, name)
    yield from ((name, getattr(spen_jax, name)) for name in TOP)


@functools.cache
def source(module):
    """The statements of a module."""
    return ast.parse(Path(sys.modules[module].__file__).read_text()).body


def definition(value):
    """The class or function in source."""
    found = [a for a in source(value.__module__) if getattr(a, "name", "") == value.__name__]
    return found[-1]


def given(node):
    """The annotated fields of a class, by name, each with the text below it or None."""
    fields = [pair for pair in with_texts(node.body) if isinstance(pair[0], ast.AnnAssign)]
    return {a.target.id: text for a, text in fields}


def with_texts(body):
    """The statements of a body, each with the string that stands below it."""
    for node, below in zip(body, [*body[1:], None], strict=True):
        text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        yield node, below.value.value if text else None


@functools.cache
def constants():
    """The constants and types, of all modules, below which a text stands."""
    found = set()
    for module in [name for name in sys.modules if name.startswith("spen_jax")]:
        for node, text in with_texts(source(module)):
            if text and isinstance(node, ast.Assign | ast.AnnAssign):
                targets = getattr(node, "targets", [getattr(node, "target", None)])
                found |= {a.id for t in targets for a in ast.walk(t) if isinstance(a, ast.Name)}
    return found


def parameters(node):
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
    return [a.arg for a in every if a is not None and not a.arg.startswith("_")]


def fields(value, node):
    """What is given to make one, each with a text or None: fields, of our base classes too, else of `__init__`."""
    kinds = [a for a in value.__mro__[::-1] if a.__module__.startswith(OURS)]
    names = [f.name for f in dataclass_fields(value) if f.init] if is_dataclass(value) else ()
    if names or hasattr(value, "_fields"):
        written = {name: text for a in kinds for name, text in given(definition(a)).items()}
        return {name: text for name, text in written.items() if name in (names or value._fields)}
    inits = [a for a in node.body if getattr(a, "name", "") == "__init__"]
    return {name: None for init in inits for name in parameters(init)[1:]}


def raised(node):
    """Names of what code raises and does not catch."""
    if isinstance(node, ast.Raise):
        made = getattr(node.exc, "func", node.exc)
        return {getattr(made, "attr", getattr(made, "id", ""))}
    found = {name for below in ast.iter_child_nodes(node) for name in raised(below)}
    if isinstance(node, ast.Try):
        inside = {name for below in node.body for name in raised(below)}
        types = [a for handler in node.handlers if handler.type for a in ast.walk(handler.type)]
        rest = [*node.handlers, *node.orelse, *node.finalbody]
        found = inside - {getattr(a, "attr", getattr(a, "id", "")) for a in types}
        found |= {name for below in rest for name in raised(below)}
    return found


def errors(node):
    """Those that are classes, rather than made elsewhere."""
    return sorted(name for name in raised(node) if name[:1].isupper())


def not_said(names, text):
    return [name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)]


def missing(value):
    """What the docstring of a function or class does not say."""
    node = definition(value)
    text = ast.get_docstring(node) or ""
    if not text:
        return ["docstring"]
    if isinstance(node, ast.ClassDef):
        return missing_of_class(value, node, text)
    lacks = not_said([*parameters(node), *errors(node)], text)
    a = node.args
    arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs]
    annotations = [a for a in (node.returns, *(a.annotation for a in arguments)) if a is not None]
    arrays = any(re.search(r"\bArray\b", ast.unparse(a)) for a in annotations)
    return lacks + (["shape"] if arrays and not SHAPE.search(text) else [])


def missing_of_class(value, node, text):
    """Its fields, and what its methods raise, which may stand in their own docstrings."""
    methods = [a for a in node.body if isinstance(a, ast.FunctionDef)]
    texts = {a.name: f"{text} {ast.get_docstring(a) or ''}" for a in methods}
    silent = [name for name, below in fields(value, node).items() if not below]
    lacks = not_said(silent, texts.get("__init__", text))
    for method in methods:
        if method.name != "__getattr__":  # AttributeError is Python's own word there
            lacks += not_said(errors(method), texts[method.name])
    return lacks


def test_docstrings_name_what_is_given_raised_and_of_which_shape():
    lacking = {}
    for name, value in public_names():
        value = inspect.unwrap(value)
        if inspect.isfunction(value) or inspect.isclass(value):
            if value.__module__.startswith("spen_jax"):
                lacking[name] = missing(value)
        elif not inspect.ismodule(value) and name.split(".")[-1] not in constants():
            lacking[name] = ["docstring"]
    assert len(lacking) > 400
    assert {name: lacks for name, lacks in lacking.items() if lacks} == {}


def silent(x: jax.Array) -> jax.Array:
    if x.ndim:
        raise ValueError("a number is wanted")
    return x


def loose(x: jax.Array, *others: float, key: int, **more: float) -> float:
    """The sum of x and key (Smith, 2001), as f(x) has it; an Error at worst."""
    if key:
        raise ValueError("key must be 0")
    return more.get("y", 0.0) + float(x) + len(others)


def tight(x: jax.Array, *others: float, key: int, **more: float) -> float:
    """The sum of x (B, K), others, and more; ValueError where key is not 0."""
    try:
        if key:
            raise KeyError("key")
    except KeyError:
        raise ValueError("key must be 0") from None
    return more.get("y", 0.0) + float(x) + len(others)


def again(x: float) -> float:
    """The number x; KeyError never."""
    try:
        if x:
            raise KeyError("x")
        return float(x)
    except (KeyError, ValueError) as error:
        raise ValueError("x must be a number") from error


class Row(NamedTuple):
    """A row with its labels."""

    labels: list[int]
    weight: float
    """How much it counts."""
    key: int = 0


@dataclass(frozen=True)
class Below:
    """At most `most`."""

    most: int

    def check(self, n: int) -> None:
        """Nothing where all is well."""
        if n > self.most:
            raise ValueError("too many")

    def checked(self, n: int) -> int:
        """ValueError for more."""
        if n > self.most:
            raise ValueError("too many")
        return n


@dataclass(frozen=True)
class Between(Below):
    """No fewer than least, with errors as there: ValueError."""

    least: int = 0
    step: int = 1


class Pair:
    """Two of them, first and another."""

    def __init__(self, first: int, second: int):
        self.both = first, second


@pytest.mark.parametrize(
    "value, lacks",
    [
        (silent, ["docstring"]),
        (loose, ["others", "more", "ValueError", "shape"]),
        (tight, []),
        (again, ["ValueError"]),
        (Row, ["key"]),
        (Below, ["ValueError"]),
        (Between, ["most", "step"]),
        (Pair, ["second"]),
    ],
)
def test_what_a_docstring_lacks_is_found(value, lacks):
    assert missing(value) == lacks


@pytest.mark.parametrize(
    "text", ["(B, K)", "(...)", "y (T,)", "()", "(..., 2 L)", "(B n, H)", "a scalar"]
)
def test_a_shape_is_read(text):
    assert SHAPE.search(text)


@pytest.mark.parametrize(
    "text",
    ["f()", "f(x, y)", "(Tu, 2018)", "(see `read`)", "(LeCun et al., 2006)", "(labels, heads)"],
)
def test_what_is_no_shape_is_not(text):
    assert not SHAPE.search(text)
