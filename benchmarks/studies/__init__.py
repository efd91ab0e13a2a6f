"""Studies on real images: which runs there are, how they depend on each other, their tables."""

from studies.plan import STUDIES, Row, Start, Study

__all__ = ["STUDIES", "Row", "Start", "Study"]
