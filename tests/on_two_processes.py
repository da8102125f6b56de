"""One of two processes of two devices each: `on_two_processes.py PORT NUMBER`."""

import sys

import jax

import spen_jax as sx

port, number = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(number))
sx.parallel.all_cores(2)

from parallel_problem import DATA, collectives, f1, fit, predictor, say, state, step_of  # noqa: E402

objective = sx.objectives.end_to_end(predictor())
losses, trained = fit(objective)
start, data = sx.parallel.everywhere((state(), DATA.train))
say(
    {
        "devices": jax.device_count(),
        "losses": losses,
        "f1": f1(trained),
        "collectives": collectives(step_of(objective, start, data, list(range(64)))),
    }
)
