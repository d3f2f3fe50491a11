//! Where to continue in a region, by what it says of itself; and what to do when somebody
//! else said it.
//!
//! | the region's meta | means | then |
//! |---|---|---|
//! | none | it is new, or was wiped | a new epoch, built from the log |
//! | signed, and so are the digests beside it | it is where it says, also if that is further back | go on from there |
//! | signed, of a higher fence | another control plane leads | stop |
//! | not ours, of another lineage | another database feeds this region | stop loudly |
//! | not ours, of a place in this log | the key was changed, or somebody wrote to it | fold the log to there, sign anew |
//! | anything else | rubbish | a new epoch |

use schemas::Position;
use schemas::stream::{Meta, MetaFields};

use super::fold::Changes;
use super::lead::{self, Term};
use super::truth::Truth;
use super::{BATCH_EVENTS, Error, Projector, known_of};
use crate::store::log;

// === impl Projector ===

impl Projector {
    /// Makes sure that the region still says of itself what was written, and says where to
    /// continue: a region that lost memory is continued from where it is.
    pub(super) async fn look_after_meta(
        &mut self,
        term: &mut Term,
        position: Position,
    ) -> Result<Position, Error> {
        let seen = self.led.region.meta().await?;
        if seen == self.written {
            return Ok(position);
        }
        let Some(fields) = seen else {
            return self.start_from(term, None).await;
        };
        if let Ok(meta) = self.led.seal.trust().meta(&fields) {
            if meta.fence > term.fence {
                return Err(Error::Fenced);
            }
            let part = self.led.region.read(meta.epoch, 0..0, false).await?;
            // An older copy of the whole region comes with the digests of its time. An old
            // meta that somebody put back alone does not.
            if matches!(part.digests(self.led.seal.trust()), Ok(Some(_))) {
                return self.start_from(term, Some(fields)).await;
            }
        }
        let chain_hash = log::chain_hash_at(&self.store, position).await?;
        let chain_hash = chain_hash.map(hex::encode).unwrap_or_default();
        self.replace_meta(term, &fields, position, chain_hash)
            .await?;
        Ok(position)
    }

    /// Puts what we know in place of a meta that no control plane of ours wrote.
    async fn replace_meta(
        &mut self,
        term: &mut Term,
        seen: &MetaFields,
        position: Position,
        chain_hash: String,
    ) -> Result<(), Error> {
        // The region cannot say who leads it any more; the database can.
        if !self.candidate.keep_now(term).await? {
            return Err(Error::Fenced);
        }
        let region = self.led.region.name();
        tracing::error!(
            region,
            position,
            "what the region says of itself is not signed with this control plane's key: \
             somebody else wrote it, or the key was changed; it is written anew"
        );
        let meta = self.meta(term, position, chain_hash);
        let fields = self.led.seal.meta(&meta);
        let digests = self.truth.digests();
        if !self
            .led
            .region
            .replace_meta(seen, &fields, &digests)
            .await?
        {
            return Err(Error::Fenced);
        }
        self.know(&meta);
        self.written = Some(fields);
        self.audit_at = 0;
        Ok(())
    }

    /// Where to continue: after the region's own checkpoint, if it is a place in this log.
    pub(super) async fn start_from(
        &mut self,
        term: &mut Term,
        fields: Option<MetaFields>,
    ) -> Result<Position, Error> {
        self.folded.clear();
        self.audit_at = 0;
        let Some(fields) = fields else {
            self.begin_epoch(term).await?;
            return Ok(0);
        };
        let Ok(meta) = self.led.seal.trust().meta(&fields) else {
            return self.start_from_unsigned(term, fields).await;
        };
        if meta.fence > term.fence {
            return Err(Error::Fenced);
        }
        let position = lead::is_of_this_log(&self.store, term.lineage, &meta).await?;
        let position = position.ok_or_else(|| Error::Foreign(foreign(term, &meta)))?;
        term.epoch = meta.epoch;
        if self.known != Some(known_of(&meta)) {
            let region = self.led.region.as_ref();
            match Truth::of_region(region, &self.led.seal, &meta).await? {
                Some(truth) => self.truth = truth,
                None => {
                    let region = region.name();
                    tracing::error!(
                        region,
                        position,
                        "the region does not hold what was signed; it is compared with the log"
                    );
                    self.fold_all(term, position).await?;
                    let seen = fields;
                    self.replace_meta(term, &seen, position, meta.chain_hash)
                        .await?;
                    return Ok(position);
                }
            }
        }
        self.know(&meta);
        self.written = Some(fields);
        Ok(position)
    }

    /// The region's meta is not signed with our key: the key was changed, the region is from
    /// before there were signatures, or somebody wrote to it. The log knows better.
    async fn start_from_unsigned(
        &mut self,
        term: &mut Term,
        fields: MetaFields,
    ) -> Result<Position, Error> {
        let meta = Meta::of_fields(&fields).ok();
        if let Some(meta) = &meta {
            if meta.lineage != term.lineage {
                return Err(Error::Foreign(foreign(term, meta)));
            }
            let position = lead::is_of_this_log(&self.store, term.lineage, meta).await?;
            // Epochs are given out by the database.
            if let Some(position) = position.filter(|_| meta.epoch <= term.epoch) {
                term.epoch = meta.epoch;
                self.fold_all(term, position).await?;
                let chain_hash = meta.chain_hash.clone();
                self.replace_meta(term, &fields, position, chain_hash)
                    .await?;
                return Ok(position);
            }
        }
        self.begin_epoch(term).await?;
        let start = hex::encode(events::codec::CHAIN_START);
        self.replace_meta(term, &fields, 0, start).await?;
        Ok(0)
    }

    async fn begin_epoch(&mut self, term: &mut Term) -> Result<(), Error> {
        term.epoch = self.candidate.new_epoch().await?;
        self.truth.clear();
        self.known = None;
        self.written = None;
        let (region, epoch) = (self.led.region.name(), term.epoch);
        tracing::info!(
            region,
            epoch,
            "the region is empty and is built from the log"
        );
        Ok(())
    }

    /// Folds the whole log up to a position, to know what the region must hold there.
    async fn fold_all(&mut self, term: &mut Term, position: Position) -> Result<(), Error> {
        self.truth.clear();
        self.folded.clear();
        self.known = None;
        let mut at = 0;
        while at < position {
            let mut rows = log::after(&self.store, at, BATCH_EVENTS).await?;
            rows.retain(|it| it.recorded.position <= position);
            let Some(last) = rows.last() else { break };
            at = last.recorded.position;
            let mut changes = Changes::default();
            for row in &rows {
                changes.merge(self.folded.fold(&self.store, &row.recorded).await?);
            }
            self.truth.apply(&changes.into_valid());
            self.keep(term).await?;
        }
        Ok(())
    }
}

/// A region whose checkpoint is not in this log was fed by another one, or this log was
/// restored from before it. Going on would mix two histories.
fn foreign(term: &Term, meta: &Meta) -> String {
    format!(
        "the region holds position {} of lineage {}, which is not in this log (lineage {}); it \
         was fed by another database, or this database was restored from an older backup: \
         nothing is written to it",
        meta.position, meta.lineage, term.lineage
    )
}
