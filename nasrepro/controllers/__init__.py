"""What proposes candidate cells."""

from nasrepro.controllers.random_cells import GrowthSettings as GrowthSettings
from nasrepro.controllers.random_cells import Proposals as Proposals
from nasrepro.controllers.random_cells import grow as grow
from nasrepro.controllers.random_cells import propose as propose

__all__ = ["GrowthSettings", "Proposals", "grow", "propose"]
