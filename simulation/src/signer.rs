//! Keys elsewhere: they answer late, not at all, with an error, with another key's signature, or panic, until the calm.

use std::{error::Error, fmt, time::Duration};

use alloy_primitives::{Address, B256, Signature, U256};
use async_trait::async_trait;
use slackwater::{AccountKey, LocalSigner, Signer};

use crate::node::{Shared, lock};

/// Order of secp256k1.
const ORDER: U256 = U256::from_limbs([0xbfd2_5e8c_d036_4141, 0xbaae_dce6_af48_a03b, 0xffff_ffff_ffff_fffe, u64::MAX]);

struct Elsewhere {
    key: LocalSigner,
    world: Shared,
    is_dead: bool,
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The key as one that is asked.
pub(crate) fn elsewhere(key: LocalSigner, world: &Shared, is_dead: bool) -> AccountKey {
    AccountKey::asking(Elsewhere { key, world: world.clone(), is_dead }).within(Duration::from_secs(2))
}

#[async_trait]
impl Signer for Elsewhere {
    fn address(&self) -> Address {
        self.key.address()
    }

    async fn sign(&self, digest: B256) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        if self.is_dead {
            return Err("access is denied".into());
        }
        let (pause, fate) = {
            let mut world = lock(&self.world);
            let is_calm = world.is_calm;
            let (pause, fate) = (world.hostile_rng.within(1, 1_500), world.hostile_rng.below(20));
            let fate = if is_calm { 19 } else { fate };
            if fate < 5 {
                world.count("signer fails");
            }
            (pause, fate)
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let signature = self.key.sign(digest);
        match fate {
            0 => Err("the module is busy".into()),
            1 => {
                std::future::pending::<()>().await;
                unreachable!("pending")
            }
            2 => Ok(self.key.sign(!digest)),
            3 => panic!("a signer panics"),
            4 => Ok(Signature::new(signature.s(), signature.r(), signature.v())),
            // The same signature with high s, as some modules give it.
            5..10 => Ok(Signature::new(signature.r(), ORDER - signature.s(), !signature.v())),
            _ => Ok(signature),
        }
    }
}
