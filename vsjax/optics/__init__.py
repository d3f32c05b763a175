"""Image formation: specimens, and the microscopes that look at them. Arrays in, arrays out. `vsjax/__init__.py` says
what it may import."""
