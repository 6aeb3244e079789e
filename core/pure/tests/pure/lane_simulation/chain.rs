//! The scripted chain and its nodes.

use super::*;

impl World {
    pub(crate) fn push_block(&mut self, txs: Vec<Tx>) {
        self.salt += 1;
        let hash = keccak256([self.salt.to_be_bytes(), (self.blocks.len() as u64).to_be_bytes()].concat());
        self.blocks.push(Block { hash, base_fee: self.base_fee, txs });
    }

    pub(crate) fn nonce_at(&self, height: u64) -> u64 {
        self.blocks.iter().take(usize::try_from(height).unwrap() + 1).map(|block| block.txs.len() as u64).sum()
    }

    pub(crate) fn height(&self) -> u64 {
        self.blocks.len() as u64 - 1
    }

    pub(crate) fn nonce(&self) -> u64 {
        self.nonce_at(self.height())
    }

    pub(crate) fn find(&self, hash: B256, height: u64) -> Option<Box<TxReceipt>> {
        let blocks = self.blocks.iter().enumerate().take(usize::try_from(height).unwrap() + 1);
        blocks.flat_map(|(number, block)| block.txs.iter().map(move |tx| (number, block, tx))).find_map(
            |(number, block, tx)| {
                (tx.hash == hash && !tx.is_foreign).then(|| {
                    Box::new(TxReceipt {
                        hash,
                        block_number: number as u64,
                        block_hash: block.hash,
                        is_success: true,
                        gas_used: tx.gas,
                        effective_gas_price: tx.fees.effective_gas_price(block.base_fee),
                        extra_fee_wei: U256::ZERO,
                        logs: Vec::new(),
                    })
                })
            },
        )
    }

    /// The transaction that the canonical chain holds for `nonce`.
    pub(crate) fn mined(&self, nonce: u64) -> Option<(u64, &Tx)> {
        self.blocks
            .iter()
            .enumerate()
            .find_map(|(number, block)| block.txs.iter().find(|tx| tx.nonce == nonce).map(|tx| (number as u64, tx)))
    }

    pub(crate) fn mine(&mut self) {
        if self.spike_left > 0 {
            self.spike_left -= 1;
            if self.spike_left == 0 {
                self.base_fee = 10 * GWEI;
            }
        } else if self.rng.chance(self.faults.spike) {
            self.base_fee = self.base_fee.saturating_mul(100);
            self.spike_left = 1 + self.rng.below(20);
        }
        let step = self.base_fee / 8;
        self.base_fee = if self.rng.chance(50) { self.base_fee + step } else { (self.base_fee - step).max(GWEI / 10) };
        self.base_fee = self.base_fee.min(20_000 * GWEI);
        let mut txs = Vec::new();
        if !self.rng.chance(self.faults.empty_block) {
            let mut nonce = self.nonce();
            if self.rng.chance(self.faults.foreign) {
                self.salt += 1;
                let hash = keccak256(self.salt.to_le_bytes());
                txs.push(Tx { nonce, hash, fees: Fees::default(), gas: 21_000, is_foreign: true });
                nonce += 1;
            }
            while let Some(tx) = self.choose(nonce) {
                let cost = U256::from(tx.gas) * U256::from(tx.fees.effective_gas_price(self.base_fee));
                self.balance = self.balance.saturating_sub(cost);
                txs.push(tx);
                nonce += 1;
            }
        }
        self.push_block(txs);
    }

    /// The transaction that a builder includes for `nonce`: usually the newest, sometimes one that was replaced long
    /// ago.
    pub(crate) fn choose(&mut self, nonce: u64) -> Option<Tx> {
        let base_fee = self.base_fee;
        let fits = |tx: &&Tx| tx.fees.is_includable(base_fee);
        let held: Vec<Tx> = self.builders.get(&nonce).into_iter().flatten().filter(fits).cloned().collect();
        if !held.is_empty() && self.rng.chance(self.faults.old_attempt) {
            let index = usize::try_from(self.rng.below(held.len() as u64)).unwrap();
            return Some(held[index].clone());
        }
        self.pools.iter().filter_map(|pool| pool.get(&nonce)).find(fits).cloned()
    }

    pub(crate) fn reorg(&mut self, depth: u64) {
        let keep = self.blocks.len() - usize::try_from(depth).unwrap();
        let orphaned = self.blocks.split_off(keep);
        for tx in orphaned.into_iter().flat_map(|block| block.txs).filter(|tx| !tx.is_foreign) {
            if self.rng.chance(50) {
                self.pools[0].entry(tx.nonce).or_insert(tx);
            }
        }
        for _ in 0..depth {
            self.mine();
        }
    }

    /// A node's answer to these bytes.
    pub(crate) fn accept(&mut self, client: usize, tx: &Tx) -> SendOutcome {
        use RpcErrorClass as C;
        let account = self.nonce();
        if tx.nonce < account {
            let known = self.mined(tx.nonce).is_some_and(|(_, mined)| mined.hash == tx.hash);
            return if known { SendOutcome::Taken } else { SendOutcome::Maybe(C::NonceTooLow) };
        }
        if self.pools[client].get(&tx.nonce).is_some_and(|held| held.hash == tx.hash) {
            return SendOutcome::Taken;
        }
        let worst = |tx: &Tx| U256::from(tx.gas) * U256::from(tx.fees.max_fee_per_gas);
        let pooled = self.pools[client].range(account..).filter(|(nonce, _)| **nonce != tx.nonce);
        let pooled = pooled.fold(U256::ZERO, |sum, (_, tx)| sum + worst(tx));
        if pooled + worst(tx) > self.balance {
            return SendOutcome::Refused(C::InsufficientFunds);
        }
        if let Some(held) = self.pools[client].get(&tx.nonce)
            && !self.clients[client].accepts(held.fees, tx.fees, self.base_fee)
        {
            return SendOutcome::Refused(C::ReplacementUnderpriced);
        }
        if self.refuses_gaps && (account..tx.nonce).any(|nonce| !self.pools[client].contains_key(&nonce)) {
            return SendOutcome::Refused(C::NonceGap);
        }
        self.pools[client].insert(tx.nonce, tx.clone());
        self.builders.entry(tx.nonce).or_default().push(tx.clone());
        SendOutcome::Taken
    }
}
