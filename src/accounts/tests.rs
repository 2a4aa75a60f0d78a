//! Promises of the directory: one name space, file before store, changes that do not get lost.

use super::memory::Memory;
use super::*;
use crate::model::ManualClock;
use crate::model::{Attributes, RoleName, Timestamp, Username};

pub(crate) fn account(name: &str, roles: &[&str]) -> Account {
    Account {
        name: Username::parse(name).unwrap(),
        password_hash: None,
        roles: roles.iter().map(|role| RoleName::parse(role).unwrap()).collect(),
        attributes: Attributes::default(),
        tenant: None,
        email: None,
        email_verified: false,
        disabled: false,
        created: Timestamp::default(),
        password_changed: None,
        origin: Origin::Store,
    }
}

fn directory() -> Directory {
    let clock: SharedClock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_000)));
    Directory::new(Memory::new(clock.clone()), clock)
}

#[tokio::test]
async fn accounts_are_added_found_changed_deleted() {
    let directory = directory();
    directory.add(account("alice", &["admin"])).await.unwrap();
    assert!(matches!(directory.add(account("alice", &[])).await, Err(AccountError::Exists(_))));
    let disabled = directory.update("alice", &|account| account.disabled = true).await.unwrap();
    assert!(disabled.disabled && directory.find("alice").await.unwrap().unwrap().disabled);
    directory.delete("alice").await.unwrap();
    assert!(matches!(directory.delete("alice").await, Err(AccountError::Unknown(_))));
    directory.add(account("alice", &[])).await.unwrap();
}

#[tokio::test]
async fn the_file_hides_the_store_and_is_not_changed_here() {
    let directory = directory();
    directory.add(account("alice", &["reader"])).await.unwrap();
    let file = vec![account("alice", &["admin"]), account("bob", &[])];
    assert_eq!(directory.adopt_file_accounts(file).await.unwrap(), ["alice"]);
    assert_eq!(directory.find("alice").await.unwrap().unwrap().roles[0].as_str(), "admin");
    assert_eq!(directory.list().await.unwrap().len(), 2);
    assert!(matches!(directory.update("bob", &|_| ()).await, Err(AccountError::InFile(_))));
    assert!(matches!(directory.delete("alice").await, Err(AccountError::InFile(_))));
    assert!(directory.principal_exists("bob").await.unwrap());
}

#[tokio::test]
async fn a_role_does_not_become_a_name_nor_a_name_a_role() {
    let directory = directory();
    directory.set_policy_roles(HashSet::from(["auditor".to_owned()]));
    directory.set_configured_roles(HashSet::from(["mapped".to_owned()]));
    directory.add(account("alice", &["admin"])).await.unwrap();
    for role in ["auditor", "mapped", "admin"] {
        let added = directory.add(account(role, &[])).await;
        assert!(matches!(added, Err(AccountError::NameIsRole(_))), "{role}");
        assert!(!directory.principal_exists(role).await.unwrap());
        let admitted = directory.admit(role, PrincipalKind::Certificate).await;
        assert!(matches!(admitted, Err(AccountError::NameIsRole(_))));
    }
    let given = directory.add(account("bob", &["alice"])).await;
    assert!(matches!(given, Err(AccountError::RoleIsName(_))));
    directory.add(account("bob", &[])).await.unwrap();
    let alice = RoleName::parse("alice").unwrap();
    let given = directory.update("bob", &|bob| bob.roles.push(alice.clone())).await;
    assert!(matches!(given, Err(AccountError::RoleIsName(_))));
    assert!(directory.add(account("self", &["self"])).await.is_err());
}

#[tokio::test]
async fn a_role_that_nobody_has_any_more_is_a_free_name() {
    let directory = directory();
    directory.add(account("alice", &["temp"])).await.unwrap();
    directory.update("alice", &|alice| alice.roles.clear()).await.unwrap();
    directory.add(account("temp", &[])).await.unwrap();
}

#[tokio::test]
async fn a_name_belongs_to_one_kind_and_one_seen_before_passes() {
    let directory = directory();
    directory.admit("corp:1", PrincipalKind::User).await.unwrap();
    directory.admit("svc", PrincipalKind::Certificate).await.unwrap();
    assert!(matches!(directory.add(account("svc", &[])).await, Err(AccountError::Exists(_))));
    directory.add(account("alice", &[])).await.unwrap();
    let taken = directory.admit("alice", PrincipalKind::Certificate).await;
    assert!(matches!(taken, Err(AccountError::Exists(_))));
    assert!(directory.admit("anonymous", PrincipalKind::User).await.is_err());
    directory.set_policy_roles(HashSet::from(["corp:1".to_owned()]));
    directory.admit("corp:1", PrincipalKind::User).await.unwrap();
}

#[tokio::test]
async fn simultaneous_changes_are_all_kept() {
    let directory = Arc::new(directory());
    directory.add(account("alice", &[])).await.unwrap();
    let changes = (0..8).map(|number| {
        let directory = Arc::clone(&directory);
        tokio::spawn(async move {
            let role = RoleName::parse(&format!("role{number}")).unwrap();
            directory.update("alice", &|alice| alice.roles.push(role.clone())).await.unwrap();
        })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.unwrap();
    }
    assert_eq!(directory.find("alice").await.unwrap().unwrap().roles.len(), 8);
}

#[tokio::test]
async fn what_the_file_says_and_the_store_contradicts_is_refused_whole() {
    let directory = directory();
    directory.add(account("alice", &["ops"])).await.unwrap();
    directory.admit("client:pep", PrincipalKind::Client).await.unwrap();
    directory.admit("svc", PrincipalKind::Certificate).await.unwrap();
    let adopt = async |name: &str, roles: &[&str]| {
        directory.adopt_file_accounts(vec![account("carol", &[]), account(name, roles)]).await
    };
    assert!(matches!(adopt("svc", &[]).await, Err(AccountError::Exists(_))));
    assert!(matches!(adopt("ops", &[]).await, Err(AccountError::NameIsRole(_))));
    assert!(matches!(adopt("dave", &["alice"]).await, Err(AccountError::RoleIsName(_))));
    assert!(matches!(adopt("dave", &["svc"]).await, Err(AccountError::RoleIsName(_))));
    assert!(matches!(adopt("Alice", &[]).await, Err(AccountError::Lookalike(..))));
    assert!(directory.find("carol").await.unwrap().is_none(), "nothing of a refused file counts");
    adopt("dave", &["ops"]).await.unwrap();
    // The file's names and roles are taken for the store's accounts and other principals too.
    assert!(matches!(directory.add(account("dave", &[])).await, Err(AccountError::Exists(_))));
    assert!(matches!(directory.add(account("Carol", &[])).await, Err(AccountError::Lookalike(..))));
    assert!(matches!(
        directory.admit("carol", PrincipalKind::Certificate).await,
        Err(AccountError::Exists(_))
    ));
    assert!(matches!(directory.add(account("erin", &["dave"])).await, Err(AccountError::RoleIsName(_))));
    // The same file again changes nothing.
    adopt("dave", &["ops"]).await.unwrap();
}

#[tokio::test]
async fn names_that_differ_in_case_alone_are_not_given_twice() {
    let directory = directory();
    directory.add(account("alice", &[])).await.unwrap();
    for twin in ["Alice", "ALICE", "aLice"] {
        assert!(
            matches!(directory.add(account(twin, &[])).await, Err(AccountError::Lookalike(..))),
            "{twin}"
        );
        assert!(directory.find(twin).await.unwrap().is_none(), "case counts when looking up");
    }
    directory.delete("alice").await.unwrap();
    directory.add(account("Alice", &[])).await.unwrap();
}
