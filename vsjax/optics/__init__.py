"""Image formation: specimens, the microscopes that look at them, and the inverse problems. It may import `vsjax.data`
(to write what it simulates) and nothing to the right of it."""
