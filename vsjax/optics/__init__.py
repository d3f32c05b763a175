"""Image formation: specimens, the microscopes that look at them, and the inverse problems. Arrays in, arrays out.
`vsjax/__init__.py` says what it may import."""
