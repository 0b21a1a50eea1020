"""Many runs side by side: a grid, and its execution on this machine or on a cluster."""
