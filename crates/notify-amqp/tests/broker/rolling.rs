//! Instances that come and go under random names, as pods do.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use notify_amqp::{ConsumerConfig, Topology, instance_queue};

use crate::{
    management,
    rig::{PATIENCE, Rig, Running},
};

const INSTANCES: usize = 200;
/// Instances alive at a time.
const WAVE: usize = 20;
/// Longer than a wave takes to leave, and what the test then waits for.
const EXPIRES: Duration = Duration::from_secs(5);

#[tokio::test]
async fn two_hundred_instances_with_random_names_leave_no_queue_behind() {
    let mut rig = Rig::new();
    let mut lasting = Running::start(expiring(&rig, &rig.instance)).await;
    let mut left = BTreeSet::new();
    for wave in 0..INSTANCES / WAVE {
        let mut instances = Vec::new();
        for _ in 0..WAVE {
            let name = uuid::Uuid::new_v4().to_string();
            left.insert(instance_queue(&rig.exchange, &name).unwrap().as_str().to_owned());
            instances.push(Running::spawn(expiring(&rig, &name)));
        }
        for instance in &instances {
            instance.until("consuming", |status| status.is_consuming()).await;
        }
        let number = u32::try_from(wave).unwrap();
        rig.publish_numbers(number..number + 1);
        for instance in &mut instances {
            assert_eq!(
                instance.next().await.number(),
                number,
                "each instance sees what comes while it lives"
            );
        }
        assert_eq!(lasting.next().await.number(), number);
        for instance in instances {
            instance.handle.stop().await;
        }
        // The last wave has just been left: its queues wait for their instances to come back.
        let present = queues(&rig).await;
        assert!(present.len() > WAVE, "{} queues right after a wave of {WAVE}", present.len());
    }
    assert_eq!(left.len(), INSTANCES);
    let deadline = Instant::now() + EXPIRES + PATIENCE;
    loop {
        let present = queues(&rig).await;
        let behind: Vec<_> = present.iter().filter(|queue| left.contains(*queue)).collect();
        if behind.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{} queues stay: {behind:?}", behind.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(queues(&rig).await, BTreeSet::from([rig.queue.clone()]), "who still consumes keeps the queue");
    rig.publish_numbers(1000..1001);
    assert_eq!(lasting.next().await.number(), 1000);
    lasting.handle.stop().await;
}

/// An instance whose queue goes soon after it.
fn expiring(rig: &Rig, instance: &str) -> ConsumerConfig {
    let mut config = rig.config();
    config.topology = Topology::new(rig.exchange.clone(), instance_queue(&rig.exchange, instance).unwrap());
    config.topology.options.expires = Some(EXPIRES);
    config
}

/// The queues of this test's exchange.
async fn queues(rig: &Rig) -> BTreeSet<String> {
    let mut names = tokio::task::spawn_blocking(management::queues).await.unwrap();
    names.retain(|name| name.starts_with(&rig.exchange));
    names
}
