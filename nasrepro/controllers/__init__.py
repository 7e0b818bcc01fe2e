"""What proposes candidate cells."""

from nasrepro.controllers.priors import PriorSettings as PriorSettings
from nasrepro.controllers.priors import draw_well_formed as draw_well_formed
from nasrepro.controllers.priors import is_well_formed as is_well_formed
from nasrepro.controllers.priors import pretrain as pretrain
from nasrepro.controllers.priors import well_formed_share as well_formed_share
from nasrepro.controllers.random_cells import Draws as Draws
from nasrepro.controllers.random_cells import Grower as Grower
from nasrepro.controllers.random_cells import GrowthSettings as GrowthSettings
from nasrepro.controllers.random_cells import draw_cells as draw_cells
from nasrepro.controllers.reinforce import Policy as Policy
from nasrepro.controllers.reinforce import Reinforce as Reinforce
from nasrepro.controllers.reinforce import ReinforceSettings as ReinforceSettings
from nasrepro.controllers.reinforce import Result as Result
from nasrepro.controllers.reinforce import ready_batches as ready_batches
from nasrepro.controllers.reward import reward as reward
from nasrepro.controllers.tree_agent import AgentSettings as AgentSettings
from nasrepro.controllers.tree_agent import Drawn as Drawn
from nasrepro.controllers.tree_agent import TreeAgent as TreeAgent
