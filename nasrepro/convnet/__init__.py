"""ZL17's convolutional networks: a value with a text, tokens, a drawing and a torch module."""

from nasrepro.convnet.errors import ConvNetError as ConvNetError
from nasrepro.convnet.layers import Layer as Layer
from nasrepro.convnet.network import ConvNet as ConvNet
from nasrepro.convnet.parser import parse as parse
from nasrepro.convnet.zoo import zoo as zoo
