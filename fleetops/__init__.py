"""FleetOps: every process of it comes by here before it loads anything else of ours."""

import gc

# What a process loads at its start stays. To look through it for garbage again and again, as Python would, took a
# third of the time of a start. Who has loaded: fleetops/doctor/apps.py, and the endpoint's two processes.
gc.set_threshold(100_000, 20, 20)
