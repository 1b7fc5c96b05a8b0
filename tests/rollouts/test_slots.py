"""Slots of clusters: of two workers that want one at the same moment one gets it, and neither waits for ever."""

import threading

import pytest
from django.db import connection, transaction

from fleetops.rollouts import clusters
from fleetops.rollouts.models import ClusterSlot

from .fleet import make_fleet, make_owner, make_run

pytestmark = pytest.mark.django_db(transaction=True)

CLUSTERS = ("111122223333 cluster=a", "111122223333 cluster=b")


def test_two_workers_at_once_take_each_slot_once(roles):
    fleet = make_fleet(8)
    run = make_run(make_owner(roles), [fleet])
    targets = list(run.targets.order_by("position"))
    barrier, missed = threading.Barrier(2), []

    def work(mine):
        try:
            for _ in range(5):
                barrier.wait(30)
                with transaction.atomic():
                    # Each target wants both clusters, in the one worker in another order than in the other.
                    order = CLUSTERS if mine[0].position == 1 else CLUSTERS[::-1]
                    wishes = {target: dict.fromkeys(order, slot) for slot, target in enumerate(mine)}
                    lost = clusters.take(wishes)
                    missed.append(len(lost))
                barrier.wait(30)
                held = list(ClusterSlot.objects.values_list("cluster", "slot"))
                assert len(held) == len(set(held)) == 8, held
                barrier.wait(30)
                with transaction.atomic():
                    clusters.release([target.pk for target in mine])
        finally:
            connection.close()

    errors = []

    def caught(mine):
        try:
            work(mine)
        except BaseException as error:  # told below: a thread's own is lost
            errors.append(error)
            barrier.abort()

    workers = [threading.Thread(target=caught, args=[part]) for part in (targets[:4], targets[4:])]
    for each in workers:
        each.start()
    for each in workers:
        each.join(60)
    assert not errors, errors
    assert sum(missed) == 20 and not ClusterSlot.objects.exists()


def test_a_rule_s_pattern_and_the_strictest_of_several():
    guards = [clusters.Guard("cluster", "*", 3), clusters.Guard("cluster", "db*", 1), clusters.Guard("rack", "r1", 2)]
    found = clusters.clusters_of("111122223333", {"cluster": "db-1", "rack": "r1", "env": "prod"}, guards)
    assert found == {"111122223333 cluster=db-1": 1, "111122223333 rack=r1": 2}
    assert clusters.clusters_of("1", {"cluster": "DB-1", "rack": ""}, guards) == {"1 cluster=DB-1": 3}


def test_places_are_the_lowest_free_ones_and_fewer_for_who_is_away():
    places = clusters.Places(4, frozenset({1}), frozenset({"x"}))
    assert places.free() == [0, 2] and places.free(for_instance="x") == [0, 2, 3]
    assert clusters.Places(1, frozenset(), frozenset({"x"})).free() == []
