"""What a store promises of agents, nodes and tokens, on every database."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from service.domain.errors import Conflict
from service.domain.records import Role, Token
from service.store.facts import AGENT_LEASE
from service.store.store import Store
from tests.contracts.lives import NODES, TOLD_AT, Lives


def let_the_lease_run_out(engine: Engine) -> None:
    """Put every agent's last word back, by a little more than its lease."""
    back = AGENT_LEASE // timedelta(microseconds=1) + 1
    with engine.begin() as connection:
        connection.execute(text("UPDATE agents SET heard_at = heard_at - :back"), {"back": back})


def a_token(**changes: object) -> Token:
    given: dict[str, object] = {
        "sha256": "a" * 64,
        "name": "eva",
        "is_agent": False,
        "role": Role.SUBMITTER,
        "project": None,
        "created_at": TOLD_AT,
        "expires_at": None,
        "revoked_at": None,
    }
    return Token(**(given | changes))  # type: ignore[arg-type]  # the names are given above


def test_an_agent_and_its_nodes_are_known_after_its_word(store: Store, lives: Lives) -> None:
    lives.agent("a")
    [agent] = store.agents()
    assert (agent.name, agent.cluster_id, agent.boot_id) == ("a", "cluster-1", "b1")
    assert not agent.is_silent
    assert abs(store.now() - agent.heard_at) < timedelta(seconds=60)
    assert store.nodes() == [("a", NODES[0]), ("a", NODES[1])]


def test_revisions_grow_with_every_word(lives: Lives) -> None:
    assert [lives.agent("a") for _ in range(3)] == [1, 2, 3]
    assert lives.agent("b") == 1


def test_nodes_that_are_not_named_are_gone_and_other_agents_keep_theirs(
    store: Store, lives: Lives
) -> None:
    lives.agent("a")
    lives.agent("b", NODES[:1])
    larger = NODES[1].model_copy(update={"cpus": 16})
    lives.agent("a", [larger])
    assert store.nodes() == [("a", larger), ("b", NODES[0])]
    lives.agent("a", [])
    assert store.nodes() == [("b", NODES[0])]


def test_a_newer_boot_of_the_same_cluster_takes_over_and_the_older_is_refused(
    store: Store, lives: Lives
) -> None:
    lives.agent("a", boot="b1")
    lives.agent("a", NODES[:1], boot="b2")
    with pytest.raises(Conflict, match="newer agent"):
        lives.agent("a", NODES, boot="b1")
    assert store.agents()[0].boot_id == "b2"
    assert store.nodes() == [("a", NODES[0])]


def test_another_cluster_has_the_name_only_after_its_lease(
    store: Store, lives: Lives, engine: Engine
) -> None:
    lives.agent("a", boot="b2")

    def move_in() -> None:
        with store.write() as tx:
            tx.see_agent("a", "cluster-2", "b1", NODES[:1])

    with pytest.raises(Conflict, match="another cluster"):
        move_in()
    assert store.agents()[0].cluster_id == "cluster-1"
    let_the_lease_run_out(engine)
    move_in()
    assert store.agents()[0].cluster_id == "cluster-2"
    assert store.nodes() == [("a", NODES[0])]


def test_an_agent_becomes_silent_once_and_speaks_again(store: Store, lives: Lives) -> None:
    lives.agent("a")
    with store.write() as tx:
        assert tx.set_agent_silent("a")
        assert not tx.set_agent_silent("a")
        assert not tx.set_agent_silent("nobody")
    assert store.agents()[0].is_silent
    assert len(store.nodes()) == 2  # still listed
    lives.agent("a")
    assert not store.agents()[0].is_silent


def test_a_token_is_known_by_its_hash(store: Store) -> None:
    person = a_token(project="vision")
    agent = a_token(
        sha256="b" * 64, name="a", is_agent=True, created_at=TOLD_AT + timedelta(days=1)
    )
    with store.write() as tx:
        tx.add_token(person)
        tx.add_token(agent)
    assert store.token("a" * 64) == person
    assert store.token("b" * 64) == agent
    assert store.token("c" * 64) is None
    assert store.tokens() == [agent, person]


def test_an_expired_token_opens_nothing_but_stays_in_the_list(store: Store) -> None:
    now = store.now()
    expired = a_token(expires_at=now - timedelta(seconds=1))
    valid = a_token(sha256="b" * 64, expires_at=now + timedelta(hours=1))
    with store.write() as tx:
        tx.add_token(expired)
        tx.add_token(valid)
    assert store.token(expired.sha256) is None
    assert store.token(valid.sha256) == valid
    assert len(store.tokens()) == 2


def test_revoking_a_name_ends_every_token_of_it_once(store: Store) -> None:
    with store.write() as tx:
        tx.add_token(a_token())
        tx.add_token(a_token(sha256="b" * 64))
        tx.add_token(a_token(sha256="c" * 64, name="tom"))
    with store.write() as tx:
        assert tx.revoke_token("eva") == 2
        assert tx.revoke_token("eva") == 0
    assert store.token("a" * 64) is None
    assert store.token("b" * 64) is None
    assert store.token("c" * 64) is not None
    assert all((one.revoked_at is None) == (one.name == "tom") for one in store.tokens())
