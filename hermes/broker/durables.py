"""Durable names: which subscription commits under each, and the positions committed so far.

A name belongs to the identity that uses it; see :mod:`hermes.broker.owners`.
"""

from __future__ import annotations

from hermes.broker.owners import durable_key, durable_name
from hermes.broker.positions import Done, Positions
from hermes.broker.subscriptions import RequestRefused, Subscription, SubscriptionHost


class Durables:
    """The durable names in use.  Belongs to the loop's thread."""

    def __init__(self, positions: Positions, *, names_max: int) -> None:
        self.positions = positions
        self._names_max = names_max
        self._holders: dict[str, Subscription] = {}

    def positions_of(self, name: str, connection: SubscriptionHost) -> dict[str, int] | None:
        """Return the positions that the connection's owner has committed under a durable name.

        Raises:
            RequestRefused: this connection commits under it; or there are as many names as there
            may be.
        """
        owner = connection.owner
        key = durable_key(owner, name)
        holder = self._holders.get(key)
        if holder is not None and holder.connection is connection:
            raise RequestRefused("durable_in_use", f"this client commits as {name!r} already")
        if not self.positions.has_room(key):
            raise RequestRefused(
                "too_many_durables",
                f"the broker keeps the positions of {self._names_max} durable names at most"
                + ("" if owner is None else f", and {owner!r} has as many as are left for others"),
            )
        stored = self.positions.get(key)
        return self._unowned(key, name) if stored is None else stored

    def commit(self, subscription: Subscription, positions: dict[str, int], done: Done) -> None:
        """Store ``positions`` under the subscription's durable name; see
        :meth:`Positions.commit`."""
        key, name = subscription.durable_key, subscription.durable
        assert key is not None
        assert name is not None
        if self.positions.get(key) is None:
            positions = {**(self._unowned(key, name) or {}), **positions}
        self.positions.commit(key, positions, done)

    def _unowned(self, key: str, name: str) -> dict[str, int] | None:
        """The positions that an owned name which has committed nothing begins with: what is stored
        under the name without an owner, by a broker that did not authenticate.  That is read and
        never changed, so no identity takes it from another."""
        unowned = durable_key(None, name)
        return None if unowned == key else self.positions.get(unowned)

    def keys(self, name: str) -> list[str]:
        """The keys of every owner's durable name ``name`` that is in use or has committed
        something."""
        keys = {*self._holders, *self.positions.names()}
        return sorted(key for key in keys if key.endswith(name) and durable_name(key).name == name)

    def holder(self, key: str) -> str | None:
        """The address of the client that commits under a durable name now."""
        subscription = self._holders.get(key)
        return None if subscription is None else subscription.connection.address

    def claim(self, subscription: Subscription) -> None:
        """``subscription`` commits under its durable name from now on; the one that did before
        ends.

        The newer wins: it may be the same program, back before its old connection was found dead.
        """
        key = subscription.durable_key
        if key is None:
            return
        older = self._holders.get(key)
        self._holders[key] = subscription
        self.positions.reserve(key)
        if older is not None:
            older.connection.durable_taken(older, subscription)

    def release(self, subscription: Subscription) -> None:
        """Give the name back, if the subscription holds one."""
        key = subscription.durable_key
        if key is not None and self._holders.get(key) is subscription:
            del self._holders[key]
            self.positions.release(key)
