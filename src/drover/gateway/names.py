"""Names for containers that were given none: two words, as people know it from Docker."""

from __future__ import annotations

from drover.model.cluster import Cluster

_FIRST_WORDS = (
    "amber agile brisk calm clever cosy crisp daring dusty eager early fair fleet frosty gentle glad golden grand "
    "hardy hazel honest humble jolly keen kind lively loyal lucid lunar mellow merry mild misty modest nimble noble "
    "patient placid plucky proud quick quiet rapid ready rustic serene sharp shy silver sober solar steady sturdy "
    "sunny swift tidy tranquil trusty vivid warm wise witty woolly young zesty"
)
_SECOND_WORDS = (
    "alpaca badger beaver bison bobcat buffalo camel caribou cheetah collie condor cougar coyote crane donkey dormouse "
    "eagle egret elk falcon ferret finch fox gazelle goat goose grouse hare heron ibex impala jackal kestrel kite lamb "
    "lark llama lynx magpie marmot marten moose mule muskox newt ocelot oryx otter owl ox pony puffin quail raven "
    "robin sable sheep sparrow stork swan tapir teal vicuna vole wren yak zebu"
)
_FIRST = _FIRST_WORDS.split()
_SECOND = _SECOND_WORDS.split()


def random_name(cluster: Cluster, seed: str) -> str:
    """A free name that follows from `seed` (hex digits); a number is added where the pair is taken."""
    number = int(seed[:16], 16)
    pair = f"{_FIRST[number % len(_FIRST)]}_{_SECOND[number // len(_FIRST) % len(_SECOND)]}"
    if pair not in cluster.names:
        return pair
    return next(name for n in range(2, len(cluster.names) + 3) if (name := f"{pair}{n}") not in cluster.names)
