"""Looks at kernels rather than running them: races (`hazards/`), instructions covered, mutants found."""
