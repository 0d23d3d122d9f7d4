//! The calls that are measured, each by the request that a number stands for. A client is a task, so they are written for any store
//! and compiled for each: that a store's futures can be sent is not known before.

/// `run` with work that takes no time.
macro_rules! run {
    ($idem:expr, $id:expr) => {{
        let (idem, id) = ($idem.clone(), $id);
        move |number| {
            let idem = idem.clone();
            async move {
                let _ = idem.run(id(number)?, |_| async { 1 }).await?;
                Ok(())
            }
        }
    }};
}

/// `run_in_tx` with an order.
macro_rules! run_in_tx {
    ($idem:expr, $id:expr) => {{
        let (idem, id) = ($idem.clone(), $id);
        move |number| {
            let idem = idem.clone();
            async move {
                let work = idem.run_in_tx(id(number)?, |mut tx| async move {
                    sqlx::query(crate::by_hand::INSERT).execute(&mut *tx).await?;
                    Ok(1)
                });
                let _ = work.await?;
                Ok(())
            }
        }
    }};
}

pub(crate) use {run, run_in_tx};
