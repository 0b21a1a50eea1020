"""What of the paper's theory holds: tangent kernels, Jacobians, the Johnson-Lindenstrauss bound, kernel regression."""
