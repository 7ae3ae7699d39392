//! What is done at once instead of in every order: fewer states, and no violation is lost.
//!
//! * A voter grants as soon as it may, and a primary answers as soon as it may: a moment with a lease or an answer more
//!   can do all that the one without can, and what is wrong without it is wrong with it.
//! * A proposal is lost only when another needs its place: one that is still on its way may also never arrive.
//! * A proposal that can never change anything again is gone: epochs and runs only grow.

use consensus::state::{ClusterState, Command};

use super::model::Moment;
use super::world::{A, B, W, World};

/// The moment with all of this done.
pub(super) fn settled(world: &mut World, mut then: Moment) -> Moment {
    forget_the_hopeless(world, &mut then);
    for voter in [A, B, W] {
        for server in [A, B] {
            let are_up = then.nodes[voter].is_up && then.nodes[server].is_up;
            if voter != server && are_up && !then.granted[voter][server] {
                then.granted[voter][server] = then.may_grant(world, voter, server);
            }
        }
    }
    for server in [A, B] {
        let done = then.copies[server].answerable(world.bug);
        if done != 0 && then.serves(world, server) {
            then.copies[server].waiting &= !done;
            then.acknowledged |= done;
        }
    }
    then
}

/// The product has the last word: what `apply` takes all the same stays on its way.
fn forget_the_hopeless(world: &mut World, then: &mut Moment) {
    for slot in &mut then.on_the_way {
        let Some(sent) = *slot else { continue };
        let is_hopeless = is_hopeless(world.command(sent), world.state(then.committed));
        if is_hopeless && world.apply(then.committed, sent).is_none() {
            *slot = None;
        }
    }
    then.on_the_way.sort_unstable();
}

/// By R1 it should be refused whenever it arrives, or it has happened.
fn is_hopeless(command: &Command, state: &ClusterState) -> bool {
    match command {
        Command::AddSecondary { module, epoch, .. }
        | Command::DropSecondary { module, epoch, .. }
        | Command::TakeOver { module, epoch, .. }
        | Command::StepDown { module, epoch, .. }
        | Command::Switchover { module, epoch, .. } => state
            .modules
            .get(module)
            .is_some_and(|record| record.epoch > *epoch),
        Command::ServerStarted {
            server,
            incarnation,
        } => state
            .members
            .get(server)
            .is_some_and(|member| member.incarnation >= *incarnation),
        _ => false,
    }
}
