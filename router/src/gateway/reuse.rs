//! Whose kept states of the embedded engine a request may go on from, and where its own may lie.

use std::sync::Arc;

use sluice_engine::Reuse;
use sluice_policies::{Decision, Facts};

use super::Ask;
use crate::identity::Caller;

/// Its own caller's, within its tenant. What a tainted conversation held is not known to its end, so that
/// it stays in memory whatever its labels say.
pub(super) fn reuse(ask: &Ask, decision: &Decision, facts: &Facts) -> Option<Reuse> {
    let untold = facts.tainted || facts.taint_unknown;
    let on_disk = !untold && ask.policy.keeps_on_disk(&decision.class, &decision.labels);
    Some(Reuse { scope: scope(&ask.request.caller)?, on_disk })
}

/// Tenant and caller. One whom nobody knows has none, since somebody else could be just as unknown.
fn scope(caller: &Caller) -> Option<Arc<[u8]>> {
    let mut scope = Vec::new();
    for part in [caller.tenant.as_bytes(), caller.id.as_ref()?.as_bytes()] {
        scope.extend_from_slice(&(part.len() as u64).to_le_bytes());
        scope.extend_from_slice(part);
    }
    Some(scope.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_caller_of_every_tenant_has_a_scope_of_its_own_and_an_unknown_one_has_none() {
        let of = |tenant: &str, id: Option<&str>| {
            let (id, tenant) = (id.map(str::to_owned), tenant.into());
            scope(&Caller { id, tenant, tags: Default::default() })
        };
        let callers = [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc"), ("a", "b"), ("b", "a")];
        for (i, (tenant, id)) in callers.iter().enumerate() {
            for (j, (other, with)) in callers.iter().enumerate() {
                assert_eq!(of(tenant, Some(id)) == of(other, Some(with)), i == j, "{i} {j}");
            }
        }
        assert_eq!(of("a", None), None);
    }
}
