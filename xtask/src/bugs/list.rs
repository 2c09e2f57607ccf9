//! The bugs: what is changed where, and which test must notice.

/// A bug that somebody could write.
#[derive(Debug)]
pub(super) struct Bug {
    /// What is wrong.
    pub(super) name: &'static str,
    /// The file, from the root.
    pub(super) file: &'static str,
    /// What stands there, exactly once.
    pub(super) find: &'static str,
    /// What stands there instead.
    pub(super) replace: &'static str,
    /// The package of the test.
    pub(super) package: &'static str,
    /// The test's target; `lib` for the tests in the library.
    pub(super) test: &'static str,
    /// What the names of the tests contain.
    pub(super) filter: &'static str,
}

const fn bug(name: &'static str, change: [&'static str; 3], test: [&'static str; 3]) -> Bug {
    let [file, find, replace] = change;
    let [package, test, filter] = test;
    Bug {
        name,
        file,
        find,
        replace,
        package,
        test,
        filter,
    }
}

/// Beside each: where it is, what it changes, and the package, target and name of the tests that must notice.
pub(super) const BUGS: &[Bug] = &[
    bug(
        "a commit is answered without a sync of the log",
        [
            "crates/wal/src/log/sync.rs",
            "        self.shared.sync_wal(SyncMode::Data)?;\n        // Without",
            "        // Without",
        ],
        ["walmend-wal", "crash_sweep", ""],
    ),
    bug(
        "the watermark is never written",
        [
            "crates/wal/src/log/sync.rs",
            "self.shared.poisoning(self.record(mark))",
            "self.shared.poisoning(if mark.first == 0 { self.record(mark) } else { Ok(()) })",
        ],
        ["walmend-wal", "recovery", ""],
    ),
    bug(
        "a failed sync is not latched",
        [
            "crates/wal/src/log/mod.rs",
            "&& self.poison.set(error.clone())",
            "&& error.to_string().is_empty()",
        ],
        ["walmend-wal", "failure_rules", ""],
    ),
    bug(
        "a failed sync is tried again",
        [
            "crates/wal/src/log/mod.rs",
            "self.poisoning(self.wal.sync(mode))",
            "self.poisoning(self.wal.sync(mode).or_else(|_| self.wal.sync(mode)))",
        ],
        ["walmend-wal", "failure_rules", "failed_sync_at_any"],
    ),
    bug(
        "the generation record is not synced before the header changes",
        [
            "crates/wal/src/log/reset.rs",
            "        meta.companion.write_watermark(watermark)?;\n        self.sync_meta(&mut meta)",
            "        meta.companion.write_watermark(watermark)",
        ],
        ["walmend-wal", "crash_sweep", ""],
    ),
    bug(
        "the header of a generation is not synced before its first frame",
        [
            "crates/wal/src/log/reset.rs",
            "        self.wal.write_at(&header.encode(), 0)?;\n        self.sync_wal(SyncMode::Data)?;",
            "        self.wal.write_at(&header.encode(), 0)?;",
        ],
        ["walmend-wal", "crash_sweep", ""],
    ),
    bug(
        "a generation takes the salts of the one before it",
        [
            "crates/wal/src/log/reset.rs",
            "        let header = WalHeader {\n            byte_order",
            "        let salts = if old == Salts::default() { salts } else { old };\n        let header = WalHeader {\n            byte_order",
        ],
        ["walmend-wal", "crash_sweep", ""],
    ),
    bug(
        "a reset that fails half-way leaves the old generation in use",
        [
            "crates/wal/src/log/reset.rs",
            "        if tail.header.is_none() {\n            return;",
            "        if tail.header.is_none() || tail.frames < u32::MAX {\n            return;",
        ],
        ["walmend-wal", "failure_rules", ""],
    ),
    bug(
        "a checkpoint does not read back what it wrote",
        [
            "crates/wal/src/barrier.rs",
            "target.verify(expected)?",
            "target.verify(&expected[..0])?",
        ],
        ["walmend-wal", "barrier_sim", ""],
    ),
    bug(
        "a checkpoint does not sync the database before the log is reset",
        [
            "crates/wal/src/barrier.rs",
            "            target.file.sync(SyncMode::Full)?;\n",
            "",
        ],
        ["walmend-wal", "crash_sweep", ""],
    ),
    bug(
        "a checkpoint syncs the data of the database, and not its length",
        [
            "crates/wal/src/barrier.rs",
            "target.file.sync(SyncMode::Full)?",
            "target.file.sync(SyncMode::Data)?",
        ],
        ["walmend-wal", "crash_sweep", ""],
    ),
    bug(
        "a reset does not wait for the snapshots of its generation",
        [
            "crates/wal/src/checkpoint.rs",
            "while !visible.readers.is_empty() {",
            "while visible.readers.is_empty() && visible.frames == u32::MAX {",
        ],
        ["walmend-wal", "checkpoint", ""],
    ),
    bug(
        "a checkpoint copies what an old snapshot must not see",
        [
            "crates/wal/src/checkpoint.rs",
            "            oldest.min(visible.frames),",
            "            oldest.max(visible.frames),",
        ],
        ["walmend-wal", "checkpoint", ""],
    ),
    bug(
        "after a failed sync of the database its length is not set again",
        [
            "crates/wal/src/checkpoint.rs",
            "if shared.length_in_doubt.swap(true, Ordering::Relaxed) {",
            "if shared.length_in_doubt.swap(true, Ordering::Relaxed) && db_pages == u32::MAX {",
        ],
        [
            "walmend-wal",
            "failure_rules",
            "after_a_failed_sync_of_the_database",
        ],
    ),
    bug(
        "a frame that does not verify is handed to the reader",
        [
            "crates/wal/src/log/read.rs",
            "Ok(whole && verifies(",
            "Ok(whole || verifies(",
        ],
        ["walmend-wal", "log", ""],
    ),
    bug(
        "recovery trusts the cache and writes nothing again",
        [
            "crates/wal/src/recovery/apply.rs",
            "        wal.read_exact_at(chunk, offset)?;\n        wal.write_at(chunk, offset)",
            "        wal.read_exact_at(chunk, offset)",
        ],
        ["walmend-wal", "failure_rules", "frames_that_a_failed_sync"],
    ),
    bug(
        "recovery makes only the first leftover frame harmless",
        [
            "crates/wal/src/recovery/apply.rs",
            "for &frame in &zeroed {",
            "for &frame in zeroed.iter().take(1) {",
        ],
        ["walmend-wal", "crash_sweep", ""],
    ),
    bug(
        "recovery looks for leftovers in the cache alone",
        [
            "crates/wal/src/recovery/apply.rs",
            "(cached || on_device).then_some(frame)",
            "(cached || (on_device && frame == 0)).then_some(frame)",
        ],
        ["walmend-wal", "failure_rules", "frames_whose_removal"],
    ),
    bug(
        "recovery does not sync what it wrote",
        [
            "crates/wal/src/recovery/apply.rs",
            "    wal.sync(SyncMode::Full)?;\n    if let Some(lost)",
            "    if let Some(lost)",
        ],
        ["walmend-wal", "crash_sweep", ""],
    ),
    bug(
        "recovery gives up at the first write that the device does not hold",
        [
            "crates/wal/src/log/open.rs",
            "            applied = apply(&*vfs, &*wal, db, &plan)?;\n",
            "",
        ],
        ["walmend-wal", "recovery", "what_recovery_writes"],
    ),
    bug(
        "a log that is cut leaves the sidecar that can bring it back",
        [
            "crates/wal/src/recovery/apply.rs",
            "        set_sidecar_aside(vfs, files)?;\n",
            "",
        ],
        ["walmend-repair", "heal", "was_cut_without"],
    ),
    bug(
        "any log in the place of a lost one counts",
        [
            "crates/wal/src/recovery/evidence.rs",
            "(false, Since::Unchanged, _) | (false, Since::Unknown, Instead::Nothing) => Whereabouts::Lost,",
            "(false, Since::Unchanged | Since::Unknown, Instead::Nothing) => Whereabouts::Lost,\n        \
             (false, Since::Unchanged, Instead::Stranger) => Whereabouts::ChangedSince,",
        ],
        ["walmend-wal", "lib", "recovery::evidence"],
    ),
    bug(
        "a salvaged copy keeps an older version of a page",
        [
            "crates/wal/src/recovery/salvage.rs",
            "pages.newest.insert(page, frame);",
            "pages.newest.entry(page).or_insert(frame);",
        ],
        ["walmend", "salvage", "whatever_frame"],
    ),
    bug(
        "a wait for a page never sees that a checkpoint is in the circle",
        [
            "crates/walmend/src/page_locks.rs",
            "return asker.has_snapshot,",
            "return asker.has_snapshot && *holder == asker.txn,",
        ],
        ["walmend", "page_locks", "circle_through"],
    ),
    bug(
        "a failed append makes only its first frame harmless",
        [
            "crates/wal/src/log/append.rs",
            "for frame in last.first..=last.last {",
            "for frame in last.first..=last.first {",
        ],
        ["walmend-wal", "failure_rules", "of_three_transactions"],
    ),
    bug(
        "a failed append is not synced away",
        [
            "crates/wal/src/log/append.rs",
            "        self.shared.sync_wal(SyncMode::Data)?;\n        tail.frames = last.frames;",
            "        tail.frames = last.frames;",
        ],
        ["walmend-wal", "failure_rules", "what_was_called_not"],
    ),
    bug(
        "after a failed append the chain goes on from what is gone",
        [
            "crates/wal/src/log/append.rs",
            "        tail.checksum = last.checksum;\n        tail.db_pages = last.db_pages;\n        tail.allocated",
            "        tail.db_pages = last.db_pages;\n        tail.checksum = crate::checksum::Checksum::default();\n        tail.allocated",
        ],
        ["walmend-wal", "failure_rules", "of_three_transactions"],
    ),
    bug(
        "whole commits far behind a break count as a torn tail",
        [
            "crates/wal/src/recovery/decide.rs",
            "(HeaderFact::Ok, Origin::Known, Behind::Far) => Damaged(Certain),",
            "(HeaderFact::Ok, Origin::Known, Behind::Far) => usable,",
        ],
        ["walmend-wal", "lib", "recovery::decide"],
    ),
    bug(
        "what the watermark says is durable is not asked for",
        [
            "crates/wal/src/recovery/decide.rs",
            "if !facts.covers_durable => Damaged(Certain)",
            "if !facts.covers_durable && facts.synced_every_commit => Damaged(Certain)",
        ],
        ["walmend-wal", "recovery", ""],
    ),
    bug(
        "commit numbers are given out twice after a salvage",
        [
            "crates/wal/src/log/open.rs",
            "return reserved.max(marked + commits(0));",
            "return marked.min(reserved).min(2);",
        ],
        ["walmend-wal", "recovery", "told_to_truncate"],
    ),
    bug(
        "a salvage under a lost header is judged anew each time",
        [
            "crates/wal/src/recovery/findings.rs",
            "[generation.salts, generation.previous]",
            "[generation.salts, generation.salts]",
        ],
        ["walmend-wal", "recovery", "salvage_under"],
    ),
    bug(
        "a frame of an earlier generation counts",
        [
            "crates/wal/src/scan/mod.rs",
            "if slot.header.salts != salts {",
            "if slot.header.salts.salt2 == 0 && slot.header.salts != salts {",
        ],
        ["walmend-wal", "recovery", "a_flipped_bit"],
    ),
    bug(
        "the checksum of a frame is not looked at",
        [
            "crates/wal/src/scan/mod.rs",
            "} else if slot.header.checksum != computed {",
            "} else if slot.header.checksum != computed && slot.header.page == u32::MAX {",
        ],
        ["walmend-proof", "corpus", "real_files"],
    ),
    bug(
        "a reader sees frames behind its snapshot",
        [
            "crates/wal/src/index.rs",
            "let limit = at_most.min(self.last());",
            "let limit = at_most.max(self.last());",
        ],
        ["walmend-wal", "index", ""],
    ),
    bug(
        "the watermark is written over the one before it",
        [
            "crates/wal/src/companion/record.rs",
            "file.write_at(&record, block_of(kind, sequence) * BLOCK)",
            "file.write_at(&record, block_of(kind, sequence & !1) * BLOCK)",
        ],
        ["walmend-wal", "lib", "companion"],
    ),
    bug(
        "versions are pruned that a live snapshot can conflict with",
        [
            "crates/commit/src/validate.rs",
            "retain(|_, version| version.seq > forget)",
            "retain(|_, version| version.seq > through)",
        ],
        ["walmend-commit", "validator_model", ""],
    ),
    bug(
        "a page that was cut off may be updated",
        [
            "crates/commit/src/validate.rs",
            "if highest.get() > cut.kept {",
            "if highest.get() > cut.kept.saturating_add(10) {",
        ],
        ["walmend-commit", "validator_model", ""],
    ),
    bug(
        "a roll-back forgets the size of the database",
        [
            "crates/commit/src/validate.rs",
            "            self.db_pages = undo.db_pages;\n",
            "",
        ],
        ["walmend-commit", "lib", "rollback"],
    ),
    bug(
        "a request conflicts with what it has seen",
        [
            "crates/commit/src/validate.rs",
            "self.seq > snapshot",
            "self.seq >= snapshot",
        ],
        ["walmend-commit", "validator_model", ""],
    ),
    bug(
        "a later send overtakes an earlier reservation",
        [
            "crates/commit/src/channel/state.rs",
            "        let key = self.slots.front()?;\n        self.slots.get(key)?.sent.as_ref()?;",
            "        let mut key = self.slots.front()?;\n        while self.slots.get(key)?.sent.is_none() {\n            key = self.slots.after(key)?;\n        }",
        ],
        ["walmend-commit", "channel_model", ""],
    ),
    bug(
        "a writer with its answer keeps the call to lead for itself",
        [
            "crates/commit/src/channel/lead.rs",
            "                self.bells.call(None);\n                self.signal()",
            "                self.bells.call(None);\n                Wakes::default()",
        ],
        ["walmend-commit", "lib", "passed_on"],
    ),
    bug(
        "writers whose leader panics are not woken",
        [
            "crates/commit/src/pipeline.rs",
            "        self.shared.bells.ring_every_one();\n",
            "",
        ],
        ["walmend-commit", "pipeline", "panics"],
    ),
    bug(
        "an abort gives its place to nobody",
        [
            "crates/commit/src/channel/state.rs",
            "        self.reserved -= 1;\n        let grant = self.grant();\n        let mut wakes = match was_first",
            "        self.reserved -= 1;\n        let grant = None;\n        let mut wakes = match was_first",
        ],
        ["walmend-commit", "channel_model", ""],
    ),
    bug(
        "a revoked permit sends into the place that another one has got since",
        [
            "crates/commit/src/channel/state.rs",
            "match slot.filter(|slot| slot.number == place.number && slot.sent.is_none()) {",
            "match slot.filter(|slot| slot.sent.is_none()) {",
        ],
        ["walmend-commit", "channel", "revoked_permit"],
    ),
    bug(
        "a revoked permit frees the place that another one has got since",
        [
            "crates/commit/src/channel/state.rs",
            ".is_some_and(|slot| slot.number == place.number && slot.sent.is_none())",
            ".is_some_and(|slot| slot.sent.is_none())",
        ],
        ["walmend-commit", "channel_model", ""],
    ),
    bug(
        "an overdue reservation is revoked although it was sent",
        [
            "crates/commit/src/channel/state.rs",
            "first.due.filter(|_| first.sent.is_none())",
            "first.due",
        ],
        ["walmend-commit", "channel_model", ""],
    ),
    bug(
        "healing keeps no copy of the damaged log",
        [
            "crates/repair/src/heal/apply.rs",
            "report.kept_aside = keep_aside(vfs, &*log, &files.wal)?;",
            "report.kept_aside = keep_aside(vfs, &*log, &files.wal).ok().flatten().filter(|_| false);",
        ],
        ["walmend-repair", "heal", ""],
    ),
    bug(
        "a wrong survivor is taken for a good one",
        [
            "crates/repair/src/heal/plan.rs",
            "if found == Some(*digest) {",
            "if found.is_some() {",
        ],
        ["walmend-repair", "heal", ""],
    ),
    bug(
        "a group of another history applies",
        [
            "crates/repair/src/heal/plan.rs",
            "if !compared.valid.iter().all(is_own) {",
            "if !compared.valid.iter().all(is_own) && compared.valid.is_empty() {",
        ],
        ["walmend-repair", "heal", ""],
    ),
    bug(
        "a damaged parity record counts as intact",
        [
            "crates/repair/src/record.rs",
            "xxh3_64(body) == self.body_sum",
            "xxh3_64(body) | 1 == self.body_sum | 1 || body.len() > 8",
        ],
        ["walmend-repair", "sidecar", ""],
    ),
    bug(
        "a sidecar that begins anew keeps the groups of the generation before",
        [
            "crates/repair/src/sidecar/writer.rs",
            "for start in (0..self.end).step_by(CHUNK as usize) {",
            "for start in (0..self.end).step_by(CHUNK as usize).skip(1) {",
        ],
        ["walmend-repair", "sidecar", "begins_anew"],
    ),
    bug(
        "zeros between groups count as room",
        [
            "crates/repair/src/sidecar/index.rs",
            "index.bad_records += u32::from(std::mem::take(&mut zeros));",
            "index.bad_records += u32::from(std::mem::take(&mut zeros) && at == 0);",
        ],
        ["walmend-repair", "sidecar", "zeros_at_the_end"],
    ),
    bug(
        "what was healed is not synced",
        [
            "crates/repair/src/heal/apply.rs",
            "    log.sync(SyncMode::Full)?;\n    for (offset, bytes) in &pieces {",
            "    for (offset, bytes) in &pieces {",
        ],
        ["walmend-repair", "crash", ""],
    ),
    bug(
        "the log is not synced before it is protected",
        [
            "crates/repair/src/heal/protect.rs",
            "    log.sync(SyncMode::Full)?;\n",
            "",
        ],
        ["walmend-repair", "crash", ""],
    ),
    bug(
        "a new database is used before its first page is synced",
        [
            "crates/walmend/src/initial.rs",
            "    file.sync(SyncMode::Full)?;\n    complete_first_page",
            "    complete_first_page",
        ],
        ["walmend", "store_faults", "created"],
    ),
    bug(
        "sqlite3 is not kept out",
        [
            "crates/wal/src/exclusive.rs",
            "if !db.try_lock(range, LockKind::Exclusive)? {",
            "if !db.try_lock(range, LockKind::Shared)? {",
        ],
        ["walmend", "sqlite_locks", ""],
    ),
    bug(
        "an explicit size of the database is not checked against page 1",
        [
            "crates/walmend/src/txn.rs",
            "Some(stored) if stored == after => Ok(()),",
            "Some(_) => Ok(()),",
        ],
        ["walmend", "store", ""],
    ),
];
