"""Whatever the network or the control plane does to remote workers: each cancellation is settled, and only once."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from control_plane.lifecycle import JobState
from tests.acceptance.network import Machine, Network, network
from tests.acceptance.remote import LONG, before_the_control_plane, held, outages, settled_by
from tests.acceptance.site import Site, Started, until
from tests.doubles.tcp_proxy import Fault, TcpProxy, proxied

pytestmark = pytest.mark.timeout(300)

ONE_OUTAGE = ["control_plane_lost", "control_plane_back"]


@pytest.fixture
def proxy(sqlite_site: Site) -> Iterator[TcpProxy]:
    """Before the site's control plane."""
    with before_the_control_plane(sqlite_site) as made:
        yield made


# --- one answer ----------------------------------------------------------------------------------------------------


def test_a_settlement_whose_answer_is_lost_lands_once(sqlite_site: Site, proxy: TcpProxy) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    site.executor(plane)
    worker = site.remote_worker(plane, url=proxy.url)
    (job_id,) = site.submit_running(plane)
    proxy.begin(Fault.LOSE_ANSWERS, only="/cancellations/settle", times=1)

    site.request(job_id)

    assert site.ended(job_id).state is JobState.CANCELLED
    worker.until_event("cancellation_settled")
    assert (len(proxy.met), proxy.count("/cancellations/settle")) == (1, 2)
    assert site.moves(job_id).count("cancel") == 1
    assert settled_by([worker]) == [job_id]
    assert worker.events("settlement_stale") == []


def test_a_settlement_that_arrives_late_and_twice_lands_once(sqlite_site: Site, proxy: TcpProxy) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    site.executor(plane)
    worker = site.remote_worker(plane, url=proxy.url)
    (job_id,) = site.submit_running(plane)
    proxy.begin(Fault.BLACK_HOLE, only="/cancellations/settle")
    site.request(job_id)
    until(lambda: proxy.count("/cancellations/settle") == 2, what="that it is sent again")
    assert site.intake.job(job_id).state is JobState.PENDING_CANCELLATION

    proxy.calm()

    assert site.ended(job_id).state is JobState.CANCELLED
    worker.until_event("cancellation_settled")
    assert site.moves(job_id).count("cancel") == 1
    assert settled_by([worker]) == [job_id]
    assert outages(worker) == []  # one lost answer alone is none


def test_a_job_whose_claim_was_answered_into_the_void_is_run_once(sqlite_site: Site, proxy: TcpProxy) -> None:
    site, plane = sqlite_site, sqlite_site.plane()
    executor = site.remote_executor(plane, url=proxy.url)
    proxy.begin(Fault.LOSE_ANSWERS, only="/jobs/claim", times=1)

    (job_id,) = site.submit_running(plane)

    assert len(proxy.met) == 1
    assert [UUID(line["job"]) for line in executor.events("job_started")] == [job_id]
    assert site.moves(job_id).count("start") == 1


def test_a_claim_that_is_on_its_way_when_the_worker_is_told_to_stop_leaves_no_lease(
    sqlite_site: Site, proxy: TcpProxy
) -> None:
    """The lease would last for an hour. A worker that is told to stop waits for three seconds for that answer."""
    site, plane = sqlite_site, sqlite_site.plane()
    site.executor(plane)
    (job_id,) = site.submit_running(plane)
    worker = site.remote_worker(plane, url=proxy.url, settings=LONG)
    proxy.begin(Fault.WITHHOLD_ANSWERS, only="/cancellations/claim")
    site.request(job_id)
    until(lambda: held(site) == {job_id}, what="that it was claimed")
    asked = proxy.count("/cancellations/claim")
    proxy.calm_when_asked("/cancellations/claim")

    assert worker.terminate() == 0

    assert proxy.count("/cancellations/claim") > asked
    assert held(site) == set()
    site.remote_worker(plane, "second", settings=LONG)
    assert site.ended(job_id).state is JobState.CANCELLED
    assert site.moves(job_id).count("cancel") == 1


# --- the control plane ---------------------------------------------------------------------------------------------


def test_a_control_plane_that_is_killed_and_comes_back_is_told_in_two_lines_and_loses_nothing(site: Site) -> None:
    plane = site.plane()
    port = int(urlsplit(site.api_url).port or 0)
    processes = [site.remote_executor(plane), site.remote_worker(plane)]
    before, meanwhile, afterwards, neighbour = site.submit_running(plane, 4)
    site.request(before)
    site.ended(before)

    site.server.kill()
    site.request(meanwhile)
    for process in processes:
        process.until_event("control_plane_lost")
    site.serve(port=port)

    assert site.ended(meanwhile).state is JobState.CANCELLED
    site.request(afterwards)
    assert site.ended(afterwards).state is JobState.CANCELLED
    for process in processes:
        process.until_event("control_plane_back")
    assert [outages(process) for process in processes] == [ONE_OUTAGE] * 2
    assert site.active_runs() == {neighbour}
    assert [site.moves(job_id).count("cancel") for job_id in (before, meanwhile, afterwards)] == [1, 1, 1]


# --- everything at once --------------------------------------------------------------------------------------------


class Customer:
    """A plane's worker and executor on a machine that sees nothing but the proxy, and what is asked of them."""

    def __init__(self, site: Site, name: str, machine: Machine, proxy: TcpProxy) -> None:
        self.name = name
        self.machine = machine
        self.proxy = proxy
        self.plane = site.plane(name)
        self.executor = site.remote_executor(self.plane, name, slots=15, url=proxy.url, on=machine)
        metrics = {"COUNTERMAND_WORKER__METRICS_LISTEN": f"{machine.address}:{METRICS_PORT}"}
        self.worker = site.remote_worker(self.plane, f"{name}-worker", url=proxy.url, on=machine, settings=metrics)
        self.left_alone, *self.asked = site.submit_running(self.plane, 1 + 2 * len(PHASES))


METRICS_PORT = 9470


class Phase(NamedTuple):
    """A fault while cancellations are requested, and how many requests have to meet it before it ends."""

    fault: Fault
    meetings: int
    only: str = ""


PHASES = [
    Phase(Fault.DELAY, 6),
    Phase(Fault.RESET, 6),
    Phase(Fault.LOSE_ANSWERS, 6),
    Phase(Fault.LOSE_ANSWERS, 1, "/cancellations/settle"),
    Phase(Fault.BLACK_HOLE, 3),
]


@pytest.mark.timeout(600)
def test_through_every_fault_of_the_network_each_cancellation_settles_once_and_none_is_lost(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    """Control plane and two customers have a machine each, and the customers reach out through a faulty proxy each."""
    with network() as net, ExitStack() as opened:
        record_property("control plane and remote workers were kept apart by", str(net))
        cloud = net.machine()
        [listening] = site.serve(on=cloud).events("server_started")
        upstream = (cloud.address, listening["port"])
        customers = []
        for name in ("north", "south"):
            machine = net.machine()
            proxy = opened.enter_context(proxied(upstream, host=machine.outside))
            customers.append(Customer(site, name, machine, proxy))
        check_that_only_customers_reach_out(net, cloud, customers, listening["port"])

        requests = [iter(customer.asked) for customer in customers]
        for phase in PHASES:
            for customer in customers:
                customer.proxy.begin(phase.fault, only=phase.only)
            for job_ids in (*requests, *requests):
                site.request(next(job_ids))
            for customer in customers:
                until(partial(was_met, customer, phase), what=f"that {phase} is met")
                customer.proxy.calm()

        check_that_each_was_settled_once(site, customers)


def check_that_only_customers_reach_out(net: Network, cloud: Machine, customers: list[Customer], port: int) -> None:
    """What listens at a customer's is there for its own machine; from the control plane's no way leads to it."""
    for customer in customers:
        assert customer.machine.connect(customer.machine.address, METRICS_PORT) == ""
        if net.is_real:
            assert "unreachable" in cloud.connect(customer.machine.address, METRICS_PORT)
            assert "unreachable" in customer.machine.connect(cloud.address, port)


def was_met(customer: Customer, phase: Phase) -> bool:
    return len(customer.proxy.met) >= phase.meetings


def check_that_each_was_settled_once(site: Site, customers: list[Customer]) -> None:
    for customer in customers:
        asked = customer.asked
        assert {site.ended(job_id, seconds=90).state for job_id in asked} == {JobState.CANCELLED}
        assert [site.moves(job_id)[-2:] for job_id in asked] == [["request_cancellation", "cancel"]] * len(asked)
        until(partial(tells_of_all, customer), what="that worker and executor tell of all")
        assert Counter(settled_by([customer.worker])) == Counter(asked)
        assert jobs_in(customer.executor, "job_started") == Counter([*asked, customer.left_alone])  # one run each
        assert site.active_runs(customer.name) == {customer.left_alone}
        assert site.intake.job(customer.left_alone).state is JobState.RUNNING


def tells_of_all(customer: Customer) -> bool:
    settled = jobs_in(customer.worker, "cancellation_settled")
    return settled.keys() == jobs_in(customer.executor, "job_closed").keys() == set(customer.asked)


def jobs_in(process: Started, event: str) -> Counter[UUID]:
    return Counter(UUID(line["job"]) for line in process.events(event))
