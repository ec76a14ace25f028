"""Concurrency limits of a Prefect server: one night and one release of a model at a time, whatever machine it is on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from bertft_core.base.errors import BusyError
from bertft_core.base.names import file_name
from bertft_core.config.store import Store
from bertft_core.tracking.locks import common_database, is_of_its_home
from flows.environment import server_address

LEASE_SECONDS = 60  # Prefect's least: for so long a killed holder keeps its slot
PATIENCE_SECONDS = LEASE_SECONDS + 15.0


@contextmanager
def one_at_a_time(kind: str, name: str, store: Store, seconds: float, studies: str | None = None) -> Iterator[None]:
    """Hold the only slot of the limit bertft-KIND-NAME (kind: night, release), made where it is missing.

    Only where the user's own Prefect server is all that machines have in common: where they share a PostgreSQL
    database its locks are better, since they end with their holder, and a registry below the home has the home's lock
    files. Raises BusyError after `seconds`, at least the time that the slot of a killed holder takes to come free.
    """
    if server_address() is None or is_of_its_home(store) or common_database(store, studies):
        yield
        return
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency

    limit = f"bertft-{kind}-{file_name(name)}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(limit, 1)
    slot = concurrency(
        limit,
        timeout_seconds=max(seconds, PATIENCE_SECONDS),
        lease_duration=LEASE_SECONDS,
        strict=True,
        raise_on_lease_renewal_failure=False,  # a server that is away for a while ends no night
    )
    with ExitStack() as held:
        try:
            held.enter_context(slot)
        except TimeoutError:
            raise BusyError(
                f"a {kind} of {name} is already running on another machine (Prefect's concurrency limit {limit}): wait "
                "for it, then run the command again"
            ) from None
        try:
            yield
        finally:
            with suppress(Exception):  # a server that is away: the lease ends by itself
                held.close()
