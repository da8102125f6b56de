"""Settings of the site. Pages are Markdown (MyST); those that name a `kernelspec` are executed, through a cache."""

import logging
import os
import sys
from pathlib import Path

import spen_jax

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # of the kernels: the pages' numbers are a CPU's
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["IPYTHONDIR"] = str(HERE / "_build" / "ipython")  # not the builder's own profile
profile = HERE / "_build" / "ipython" / "profile_default"
profile.mkdir(parents=True, exist_ok=True)
(profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 'ERROR'\n")
logging.getLogger("traitlets").setLevel(logging.ERROR)
os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")

project = "spen_jax"
author = "the spen_jax authors"
version = release = spen_jax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "extension",
]
exclude_patterns = ["_build", "README.md"]
root_doc = "index"

html_theme = "furo"
html_title = "spen_jax"
html_static_path = ["_static"]
html_favicon = "_static/valley.svg"
html_css_files = ["site.css"]
html_math_renderer = "mathml"  # neither building nor reading needs a network
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "github-dark"
html_copy_source = html_show_sourcelink = html_show_copyright = False
smartquotes = False
highlight_language = "none"
python_maximum_signature_line_length = 88

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "executed")
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # what a page writes is gone with it
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
