"""What the site does beyond Sphinx: docstrings in light Markdown, names that are links, mathematics as MathML."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from jupyter_cache import get_cache
from sphinx.addnodes import desc_signature, pending_xref
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import spen_jax

logger = logging.getLogger(__name__)

ROOMS = (
    "domains networks energies exact inference sampling losses objectives training metrics data parallel sparse "
    "tiles convolutions interop serving estimators cli"
).split()
TOP = ("Predictor", "Shortlist", "export", "load")  # of no room


def public(room):
    """The public names of a module."""
    own = [n for n, a in vars(room).items() if getattr(a, "__module__", "") == room.__name__]
    return [name for name in getattr(room, "__all__", own) if not name.startswith("_")]


def targets():
    """From what a page may write (`losses.hinge`, `sx.minimize`, `SPEN`) to the name in the reference."""
    places, found = {}, {}
    for short in ROOMS:
        room = importlib.import_module(f"spen_jax.{short}")
        for name in public(room):
            places.setdefault(name, {})[f"spen_jax.{short}.{name}"] = getattr(room, name)
            for prefix in ("", "sx.", "spen_jax."):
                found[f"{prefix}{short}.{name}"] = f"spen_jax.{short}.{name}"
    for name in TOP:
        places[name] = {f"spen_jax.{name}": getattr(spen_jax, name)}
    for name in spen_jax.__all__:
        for path, value in places.get(name, {}).items():
            if value is getattr(spen_jax, name):
                found |= {f"{prefix}{name}": path for prefix in ("", "sx.", "spen_jax.")}
    for name, paths in places.items():
        if len(paths) == 1 and re.search("[A-Z_]", name):  # no words such as `order`
            found[name] = next(iter(paths))
    return found


def look_through(app, doctree):
    """Pictures need a text; every `name` in code letters that stands in the reference becomes a link to it."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            logger.warning("a picture without a text: %s", image["uri"], location=image)
    known = app.env.spen_jax_names
    for literal in list(doctree.findall(nodes.literal)):
        above = literal.parent
        if isinstance(above, (nodes.reference, pending_xref)):
            continue
        text, called = re.subn(r"\(.*\)$", "", literal.astext(), flags=re.S)
        if called and text.isidentifier() and text.islower():
            continue  # some object's method, as in `sample(key, 10)`
        full = known.get(f"{module_of(literal)}.{text}") or known.get(text)
        if full:
            link = pending_xref(
                "", literal.deepcopy(), refdomain="py", reftype="obj", reftarget=full, refwarn=True
            )
            link["refdoc"] = app.env.current_document.docname
            above.replace(literal, link)


def resolve_alias(app, env, node, text):
    """A reference to `spen_jax.SPEN` leads to where it stands."""
    full = env.spen_jax_names.get(node["reftarget"])
    if full:
        domain = env.domains.python_domain
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, text)
    return None


def module_of(node):
    """The module of the object whose docstring holds a node."""
    while node is not None:
        for child in node.children[:1]:
            if isinstance(child, desc_signature) and child.get("module"):
                return child["module"]
        node = node.parent
    return ""


SECTION = re.compile(r"(Args|Attributes|Fields|Returns|Raises|Yields):$")
ENTRY = re.compile(r"([*\w]+(?:\.?, [*\w]+)*): (.*)")


def to_restructured(app, what, name, obj, options, lines):
    """A docstring in light Markdown: `code`, *emphasis*, lists, indented blocks, sections of arguments."""
    if what == "data":
        lines[:] = comment_of(name)
    lines[:] = [new for block in blocks(lines) for new in [*restructured(block), ""]]


def blocks(lines):
    """Runs of lines between blank ones; a section is one of its own, with all that is indented below it."""
    run, within = [], False
    for line in [*lines, ""]:
        starts = SECTION.match(line)
        ends = bool(line.strip()) and not line.startswith(" ") if within else not line.strip()
        if starts or ends:
            yield [a for a in run if a.strip()]
            run = []
        within = bool(starts) or (within and not ends)
        run.append(line)
    yield [a for a in run if a.strip()]


def restructured(block):
    """One block in reStructuredText: a section, a literal block, a list of entries or a paragraph."""
    if not block:
        return
    if SECTION.match(block[0]):
        yield from (f"**{block[0][:-1]}**", "")
        below = inspect.cleandoc("\n".join(block[1:])).splitlines()
        yield from below_one_another(below) if block[0] != "Returns:" else map(escaped, below)
    elif all(line.startswith("    ") for line in block):
        yield from ("::", "", *block)
    elif ENTRY.match(block[0]) and any(line.startswith(" ") for line in block):
        yield from below_one_another(block)
    else:
        yield from map(escaped, block)


def below_one_another(lines):
    """Entries `name: text`, whose further lines are indented, as a list."""
    for line in lines:
        if line.startswith(" "):
            yield f"  {escaped(line.strip())}"
            continue
        if entry := ENTRY.match(line):
            line = ", ".join(f"`{name}`" for name in entry[1].split(", ")) + f": {entry[2]}"
        yield f"- {escaped(line)}"


def escaped(line):
    """One line with nothing of reStructuredText in it but code, emphasis and the marks of lists."""
    lead = re.match(r"\s*([-*] |\d+\. )?", line)
    rest = line[lead.end() :] if lead else line
    parts = re.split(r"(``.+?``|`[^`]+`|docs/[\w/]+\.md)", rest)
    for i, part in enumerate(parts):
        if i % 2 and part.startswith("docs/"):
            parts[i] = f":doc:`/{part[5:-3]}`"
        elif i % 2:
            parts[i] = f"``{part.strip('`')}``"
        else:
            part = re.sub(r"([\\`_|<>\[\]])", r"\\\1", part)
            emphasis = r"(?<![\w*\\])\*(?=[^\s*])([^*]+?)(?<=[^\s*])\*(?![\w*])"
            pieces = re.split(emphasis, part)
            parts[i] = "".join(
                f"*{p}*" if j % 2 else p.replace("*", r"\*") for j, p in enumerate(pieces)
            )
            if i and parts[i][:1].isalnum():
                parts[i] = "\\ " + parts[i]
        if i % 2 and i and parts[i - 1][-1:].isalnum():
            parts[i] = "\\ " + parts[i]
    return line[: len(line) - len(rest)] + "".join(parts)


def comment_of(path):
    """The text below a constant or a type, wherever its room defines it."""
    room, _, name = path.rpartition(".")
    for module in [m for m in sys.modules if m == room or m.startswith(f"{room}.")]:
        found = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))
        if found:
            return found
    return []


class Room(SphinxDirective):
    """`.. room:: losses`: its text and all its public names."""

    required_arguments = 1

    def run(self):
        """What autodoc makes of them."""
        path = f"spen_jax.{self.arguments[0]}"
        room, text = importlib.import_module(path), [f".. automodule:: {path}", ""]
        for name in sorted(public(room), key=lambda name: name.isupper()):
            value = getattr(room, name)
            ours = getattr(value, "__module__", "").startswith("spen_jax")
            routine = inspect.isfunction(inspect.unwrap(value))  # of a cache, of jit
            kinds = {"class": inspect.isclass(value), "function": routine}
            kind = next((kind for kind in kinds if ours and kinds[kind]), "data")
            text += [f".. auto{kind}:: {path}.{name}"]
            text += [f"   {option}" for option in of_class(value)] if kind == "class" else []
            text += ["   :no-value:"] if inspect.isfunction(value) and not ours else []
            text += [""]
        return self.parse_text_to_nodes("\n".join(text))


def of_class(value):
    """Options that show the members that this library wrote, those of its base classes too."""
    others = [c.__name__ for c in value.__mro__ if not c.__module__.startswith("spen_jax")]
    return ":members:", ":special-members: __call__", f":inherited-members: {', '.join(others)}"


def kept(app, what, name, obj, skip, options):
    """Of a class no bare fields of tuples, nor defaults from elsewhere."""
    foreign = not (getattr(obj, "__module__", "") or "spen_jax").startswith("spen_jax")
    bare = (inspect.getdoc(obj) or "").startswith("Alias for field number")
    return True if bare or foreign else None


def stay_home(app, module, attribute):
    """No pages of the source of others: an alias such as `Callable[...]` is not followed to where Python has it."""
    value = getattr(importlib.import_module(module), attribute.partition(".")[0], None)
    ours = (getattr(value, "__module__", "") or "").startswith("spen_jax")
    return None if ours else module


def signature(app, what, name, obj, options, text, returns):
    """Without what Flax adds to every module; a default that is a function by its name."""
    if text:
        text = re.sub(r"<(PjitFunction of <)?function ([\w.]+)( at 0x\w+)?>(>)?", r"\2", text)
        text = re.sub(r", parent: .*?(?=, name:|\))|, parent=<[^>]*>|, name=None(?=\))", "", text)
    return text, returns


def mathml(self, node):
    """LaTeX as MathML."""
    block = isinstance(node, nodes.math_block)
    try:
        latex = re.sub(r"frac(\d)(\d)", r"frac{\1}{\2}", node.astext())
        text = tex2mathml(latex, as_block=block)
    except MathError as error:
        logger.warning("%s in %s", error, node.astext(), location=node)
        text = node.astext()
    self.body.append(f'<div class="math">{text}</div>' if block else text)
    raise nodes.SkipNode


def offer_notebook(app, page, template, context, doctree):
    """A link below the title of each executed page to what was executed, outputs and all."""
    if executed(app, page).exists() and doctree is not None:
        link = context["pathto"](f"_notebooks/{page}.ipynb", 1)
        below = (
            f'</h1>\n<p class="notebook"><a download href="{link}">This page as a notebook</a></p>'
        )
        context["body"] = context["body"].replace("</h1>", below, 1)


def executed(app, page):
    """Where MyST-NB writes the notebook of a page."""
    return Path(app.env.mystnb_config.output_folder) / f"{page}.ipynb"


def copy_notebooks(app, error):
    """Put the notebooks beside the pages, with their outputs; what links inside the site is words there."""
    cache = get_cache(app.config.nb_execution_cache_path)
    for page in app.env.found_docs if not error else ():
        if not executed(app, page).exists():
            continue
        _, notebook = cache.merge_match_into_notebook(nbformat.read(executed(app, page), 4))
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                text = re.sub(r"\{py:obj\}(`[^`]+`)", r"\1", cell.source)
                cell.source = re.sub(r"\[([^]]+)\]\((?!http)[^)]+\)", r"\1", text)
        target = Path(app.outdir) / "_notebooks" / f"{page}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)


def setup(app):
    """Connect all of it."""
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.add_directive("room", Room)
    app.connect("builder-inited", lambda app: setattr(app.env, "spen_jax_names", targets()))
    app.connect("doctree-read", look_through)
    app.connect("missing-reference", resolve_alias)
    app.connect("autodoc-process-docstring", to_restructured)
    app.connect("autodoc-skip-member", kept)
    app.connect("autodoc-process-signature", signature)
    app.connect("viewcode-follow-imported", stay_home)
    app.connect("html-page-context", offer_notebook)
    app.connect("build-finished", copy_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
