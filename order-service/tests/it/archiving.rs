//! Old orders as files.

use order_service::settings::ArchiveSettings;
use order_service::{archive, db::Db};

use crate::support::World;

/// One sale that is long over with two orders, one whose orders may still change, one that is over since yesterday.
const SALES: &str = "
INSERT INTO sales (id, title, published_at, starts_at, ends_at, payment_window_seconds) VALUES
    ('00000000-0000-4000-8000-000000000001', 'old', now(), now() - interval '92 days', now() - interval '91 days', 60),
    ('00000000-0000-4000-8000-000000000002', 'open', now(), now() - interval '92 days', now() - interval '91 days', 60),
    ('00000000-0000-4000-8000-000000000003', 'new', now(), now() - interval '2 days', now() - interval '1 day', 60);
INSERT INTO items (id, sale_id, position, sku, name, image_url, price_cents, currency, total, per_user_limit)
    SELECT ('10000000-0000-4000-8000-00000000000' || n)::uuid, ('00000000-0000-4000-8000-00000000000' || n)::uuid,
           0, 'a', 'a', '', 100, 'CNY', 10, 10 FROM generate_series(1, 3) n;
INSERT INTO orders (id, item_id, sale_id, user_id, quantity, unit_price_cents, currency, status, units, version, epoch,
                    reserved_at, created_at)
    SELECT gen_random_uuid(), ('10000000-0000-4000-8000-00000000000' || n)::uuid,
           ('00000000-0000-4000-8000-00000000000' || n)::uuid, 'user-' || m, 1, 100, 'CNY',
           CASE n WHEN 2 THEN 'pending_payment' ELSE 'expired' END, 'returned', 2, 1, now(), now()
      FROM generate_series(1, 3) n, generate_series(1, 1200) m;
INSERT INTO order_transitions (order_id, version, to_status, units) SELECT id, 2, 'expired', 'returned' FROM orders;
";

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_is_long_over_becomes_a_file_with_all_its_orders_once() {
    let world = World::start("archive").await;
    world.execute(SALES).await;
    let instance = world.instance().await;
    let db: Db = instance.db.clone();
    let folder = std::env::temp_dir().join(format!("stampede-archive-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let settings = ArchiveSettings { folder: folder.display().to_string(), after_days: 90 };

    assert_eq!(archive::run(&db, &settings).await.unwrap(), 1);

    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["00000000-0000-4000-8000-000000000001.ndjson"]);
    let text = std::fs::read_to_string(folder.join(&files[0])).unwrap();
    let users: std::collections::BTreeSet<String> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["transitions"][0]["to_status"], "expired");
            assert_eq!(line["payments"], serde_json::json!([]));
            line["order"]["user_id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!((users.len(), text.lines().count()), (1_200, 1_200), "each order once, over several pages");
    assert_eq!(archive::run(&db, &settings).await.unwrap(), 0, "it is there already");
    std::fs::remove_dir_all(&folder).unwrap();
}
