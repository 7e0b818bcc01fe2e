"""Which layers of a network count, and an order of them that does not depend on how they were numbered."""

from hashlib import sha256

from nasrepro.convnet.layers import RELU, Layer
from nasrepro.convnet.structure import Structure


def canonical_order(net: Structure) -> list[int]:
    """The layers that reach the classifier, by their depth and then by all that surrounds them.

    A layer is told from another of equal depth by what it is, reads and is read by, in rounds, as Weisfeiler & Leman
    (1968) tell the nodes of graphs apart. Of layers that this leaves alike one is taken out, and the rounds go on:
    which one does not matter, unless a network is contrived to deceive them.
    """
    graph = _Graph(net)
    mark = graph.told_apart(graph.first_marks())
    while (alike := graph.first_alike(mark)) is not None:
        mark = graph.told_apart(mark | {alike: _told(mark[alike], [], [])})
    return sorted(graph.alive, key=lambda n: (graph.depth[n], mark[n]))


class _Graph:
    """The layers that reach the classifier, with what each reads and is read by."""

    def __init__(self, net: Structure) -> None:
        self.net, self.alive = net, reaching(net)
        self.reads = {number: net.connections[number - 1] for number in self.alive}
        self.readers: dict[int, list[int]] = {number: [] for number in (0, *self.alive)}
        self.depth = {0: 0}
        for number, inputs in self.reads.items():
            self.depth[number] = 1 + max(self.depth[i] for i in inputs)
            for i in inputs:
                self.readers[i].append(number)

    def first_marks(self) -> dict[int, str]:
        """What is known of the image, 0, and of each layer by itself."""
        output = set(self.net.read_by_classifier)
        said = {n: f"{self.depth[n]} {_said(self.net.layers[n - 1])} {n in output}" for n in self.alive}
        return {0: "image"} | said

    def told_apart(self, mark: dict[int, str]) -> dict[int, str]:
        """Marks that tell as many layers apart as rounds of looking at what surrounds them can."""
        for _ in self.alive:
            told = {
                n: _told(mark[n], [mark[i] for i in self.reads[n]], [mark[r] for r in self.readers[n]])
                for n in self.alive
            }
            finer = len(set(told.values())) > len({mark[n] for n in self.alive})
            mark = mark | told
            if not finer:
                break
        return mark

    def first_alike(self, mark: dict[int, str]) -> int | None:
        """One of the least layers that share a mark and can't be exchanged one for one, as those can that read the
        same layers and are read by the same; None where there are no such layers."""
        groups: dict[tuple[int, str], list[int]] = {}
        for number in self.alive:
            groups.setdefault((self.depth[number], mark[number]), []).append(number)
        for _, group in sorted(groups.items()):
            if len({(self.reads[n], tuple(self.readers[n])) for n in group}) > 1:
                return group[0]
        return None


def _said(layer: Layer) -> str:
    """All of a layer but its inputs. The form is frozen: the order of layers, and so every hash, depends on it."""
    activation = "" if layer.activation == RELU else f", activation={layer.activation!r}"
    return (
        f"Layer(type={layer.type!r}, inputs=(), filter_height={layer.filter_height}, "
        f"filter_width={layer.filter_width}, stride_height={layer.stride_height}, stride_width={layer.stride_width}, "
        f"filters={layer.filters}{activation})"
    )


def _told(own: str, read: list[str], readers: list[str]) -> str:
    return sha256(repr((own, sorted(read), sorted(readers))).encode()).hexdigest()


def reaching(net: Structure) -> list[int]:
    """The numbers of the layers from which a path leads to the classifier, in order."""
    found: set[int] = set()
    waiting = [number for number in net.read_by_classifier if number]
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += [i for i in net.connections[number - 1] if i]
    return sorted(found)
