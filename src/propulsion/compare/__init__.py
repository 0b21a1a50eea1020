"""Many runs side by side: a grid, the runner that survives anything, statistics, and one report."""
