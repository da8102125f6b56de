import subprocess
import sys

CHEX = {"chex", "absl", "toolz"}
PROGRAM = """
import sys
import flax.linen, jax, optax
before = set(sys.modules)
import spen_jax
print(*{name.split(".")[0] for name in set(sys.modules) - before})
print(*{name.split(".")[0] for name in sys.modules})
"""

HEAVY = {
    "matplotlib",
    "orbax",
    "pandas",
    "safetensors",
    "scipy",
    "sklearn",
    "tensorboardX",
    "tensorstore",
    "torch",
    "tyro",
}


def test_importing_spen_jax_imports_nothing_but_itself_beyond_jax_flax_optax_and_chex():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120
    )
    new, loaded = (set(line.split()) for line in run.stdout.splitlines())
    assert "spen_jax" in new
    assert new - set(sys.stdlib_module_names) <= {"spen_jax", "jax", "flax", "optax", *CHEX}
    assert not loaded & HEAVY


def test_without_scikit_learn_the_estimators_say_which_extra_has_it():
    program = "import sys; sys.modules['sklearn'] = None; import spen_jax.estimators"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'spen_jax[estimators]'" in run.stderr.splitlines()[-1]
