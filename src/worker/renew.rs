//! Reviews fans whose review is due: pending ids fall due for renewal, expire, and are pruned.

use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Activation, Context};

/// Runs until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    super::run(&Notify::new(), stop, Reviews(context)).await;
}

struct Reviews(Context);

impl Activation for Reviews {
    async fn activate(&mut self) -> Duration {
        // Enough for 22.5 million fans due on one day, in steps between which other writes proceed.
        const STEPS_MAX: usize = 32;
        let Context { store, apps, wake, store_failures, .. } = &self.0;
        let now = self.0.now();
        let mut more = false;
        for (app, rules) in &*apps.all() {
            for step in 0..STEPS_MAX {
                match store.review_fans(app, rules.renew, now).await {
                    Ok(0) => break,
                    Ok(_) => {
                        wake.fans.notify_one();
                        more |= step + 1 == STEPS_MAX;
                    }
                    Err(error) => {
                        store_failures.warn("fans due for renewal or expiry could not be updated", &error);
                        break;
                    }
                }
            }
        }
        if more { Duration::ZERO } else { super::LOOK_EVERY }
    }
}
