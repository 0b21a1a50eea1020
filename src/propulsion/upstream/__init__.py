"""What the method uses of torch, peft and transformers beyond their documented interfaces: one file for each of them.

Nothing outside this folder touches a private name of theirs. `tests/propulsion/test_upstream.py` has a canary for each.
"""
