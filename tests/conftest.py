import itertools
from pathlib import Path

import jax
import pytest

# Most of a test's time is compilation, and what is compiled runs once.
jax.config.update("jax_disable_most_optimizations", True)
# A sum over the wrong axis is then an error rather than a number.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Accelerators would round the factors of products to a few digits.
jax.config.update("jax_default_matmul_precision", "highest")

# Files about what stands around the library; tests of the library itself are marked core.
AROUND = set(
    "test_benchmark_energies test_benchmark_structure test_benchmarks test_bibtex test_contrastive "
    "test_ellipse test_embeddings_experiments test_gradients_page test_horn test_invariant test_labels "
    "test_lecture_experiments test_moving test_many_labels_experiment test_million_experiment "
    "test_handwriting test_loss_gallery test_mixture test_objective_pages test_parsing test_readme "
    "test_defaults test_denoise_experiment test_faces_experiment test_horses_experiment test_snakes_experiment "
    "test_factor_graphs_experiment test_pose test_resume_option test_stacking test_suggest test_tagging "
    "test_site test_start test_results_page "
    "test_words test_hidden_markov_experiment test_mean_field_experiment test_regressor_experiment".split()
)
EXPERIMENTS = AROUND - {
    "test_benchmarks",
    "test_readme",
    "test_gradients_page",
    "test_site",
    "test_start",
    "test_results_page",
}  # run with the slow ones


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("long"):  # also one case of a slow test
            item.own_markers = [m for m in item.own_markers if m.name != "slow"]
        elif item.path.stem in EXPERIMENTS:
            item.add_marker(pytest.mark.slow)
        if item.path.stem not in AROUND and not item.get_closest_marker("long"):
            item.add_marker(pytest.mark.core)


MAPS, TESTS = Path("/proc/self/maps"), itertools.count(1)


def pytest_runtest_teardown(item, nextitem):
    # Each compiled program holds memory maps, of which Linux gives a process 65,530: XLA aborts beyond.
    slow = item.get_closest_marker("slow") or item.get_closest_marker("long")
    now = slow or next(TESTS) % 20 == 0
    if now and MAPS.exists() and MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
