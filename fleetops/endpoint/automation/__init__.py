"""Automation: executions of runbooks, step by step, which survive the end of this process.

`engine` knows all executions, `running` is one under way, `actions` what its steps do, `caller` makes their calls.
"""
