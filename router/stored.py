"""Which replica keeps which stored response: `/v1/responses/{id}` and `previous_response_id` go back to its maker."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable

_ID = re.compile(rb'"id":\s*"(resp_[^"\\]{1,128})"')


class StoredResponses:
    """A bounded map from response id to replica name; the oldest are forgotten first."""

    def __init__(self, most: int = 100_000) -> None:
        self._most = most
        self._makers: OrderedDict[str, str] = OrderedDict()
        self.learned: Callable[[str, str], None] | None = None
        """Told each id and maker that this process learnt: its follow-up may reach another."""

    def __len__(self) -> int:
        return len(self._makers)

    def learn(self, head: bytes, replica: str) -> None:
        """Note the id in the first bytes of a reply, where there is one."""
        match = _ID.search(head)
        if match is None:
            return
        response_id = match.group(1).decode("latin-1")
        self.keep(response_id, replica)
        if self.learned is not None:
            self.learned(response_id, replica)

    def keep(self, response_id: str, replica: str) -> None:
        """This replica has it."""
        self._makers[response_id] = replica
        if len(self._makers) > self._most:
            self._makers.popitem(last=False)

    def maker(self, response_id: str) -> str | None:
        """Name of the replica that made the response, if known."""
        return self._makers.get(response_id)
