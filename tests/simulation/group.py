"""The consumer group: who reads which partition, and who only believes so."""

import asyncio
from typing import TYPE_CHECKING, Final

from tests.simulation.faults import Fault
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.actors import WorkerProcess

#: Silence after which a member is declared dead, as in our settings.
SESSION_TIMEOUT_S: Final = 10.0
#: How long a rebalance waits for members to give their partitions up.
REBALANCE_TIMEOUT_S: Final = 60.0


class StaleMember(Exception):
    """The group has gone on without the member."""


class Group:
    """Kafka's group coordinator with the eager protocol: everybody gives up everything, then all is dealt anew."""

    def __init__(self, world: World) -> None:
        """Start without members."""
        self._world = world
        self._wanted = asyncio.Event()
        self.members: list[WorkerProcess] = []
        self.generation = 0

    def join(self, member: "WorkerProcess") -> None:
        """Take a member in at the next rebalance."""
        if member not in self.members:
            self.members.append(member)
        self._wanted.set()

    def rebalance_soon(self) -> None:
        """Deal the partitions anew."""
        self._wanted.set()

    def lose(self, member: "WorkerProcess") -> None:
        """Declare a silent member dead, rightly or wrongly."""
        if member in self.members and (member.is_paused or not member.is_alive):
            if member.is_alive:
                self._world.count(Fault.EXPELLED, member.name)
            self.members.remove(member)
            self._wanted.set()

    def leave(self, member: "WorkerProcess") -> None:
        """Let a member go that said good-bye."""
        if member in self.members:
            self.members.remove(member)
        self._wanted.set()

    async def run(self) -> None:
        """Rebalance whenever somebody wants it."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await asyncio.sleep(self._world.random.uniform(0.1, 3))
            await self._rebalance()

    async def _rebalance(self) -> None:
        world = self._world
        world.count(Fault.REBALANCE, "group")
        revoking = {member: member.spawn(member.revoke()) for member in self.members if member.is_alive}
        if revoking:
            await asyncio.wait(revoking.values(), timeout=REBALANCE_TIMEOUT_S)
        for member, task in revoking.items():
            if member.is_alive and not task.done() and member in self.members:
                world.count(Fault.EXPELLED, member.name)
                self.members.remove(member)
                if not member.is_paused:  # who is paused finds out when it goes on
                    member.spawn(member.heartbeat())
        self.generation += 1
        ready = [member for member, task in revoking.items() if member.is_alive and task.done()]
        ready = [member for member in ready if member in self.members]
        world.random.shuffle(ready)
        partitions = range(len(world.broker.lifecycle))
        for turn, member in enumerate(ready):
            member.take_over_soon(self.generation, {number for number in partitions if number % len(ready) == turn})

    def commit(self, member: "WorkerProcess", generation: int, offsets: dict[int, int]) -> None:
        """Take a commit of who belongs to the group. Raises StaleMember for everybody else."""
        if generation != self.generation or member not in self.members:
            self._world.count(Fault.STALE_COMMIT, member.name)
            raise StaleMember
        for partition, offset in offsets.items():
            self._world.watch.is_done_up_to(partition, offset, "committed")
            self._world.broker.committed[partition] = offset
