"""What the tools use of torch, peft and transformers beyond their documented interfaces: one file for each of them.

Nothing outside this folder and `propulsion.upstream` touches a private name of theirs. `tests/test_upstream.py` has a
canary for each.
"""
