"""What proposes candidate cells."""

from nasrepro.controllers.random_cells import Grower as Grower
from nasrepro.controllers.random_cells import GrowthSettings as GrowthSettings
from nasrepro.controllers.random_cells import Proposals as Proposals
from nasrepro.controllers.random_cells import propose as propose

__all__ = ["Grower", "GrowthSettings", "Proposals", "propose"]
