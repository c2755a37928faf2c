//! The tables as diesel sees them; `migrations/` is what they are.

#![expect(missing_docs, reason = "the migration says what each column is")]

diesel::table! {
    sales (id) {
        id -> Uuid,
        title -> Text,
        published_at -> Nullable<Timestamptz>,
        paused_at -> Nullable<Timestamptz>,
        ended_at -> Nullable<Timestamptz>,
        starts_at -> Timestamptz,
        ends_at -> Timestamptz,
        payment_window_seconds -> Int4,
        created_at -> Timestamptz,
        waiting_room -> Bool,
        challenge -> Bool,
    }
}

diesel::table! {
    items (id) {
        id -> Uuid,
        sale_id -> Uuid,
        position -> Int4,
        sku -> Text,
        name -> Text,
        image_url -> Text,
        price_cents -> Int8,
        currency -> Text,
        total -> Int8,
        taken -> Int8,
        per_user_limit -> Int4,
        version -> Int8,
        epoch -> Int8,
        epoch_token -> Nullable<Uuid>,
        fenced_epoch -> Int8,
    }
}

diesel::table! {
    orders (id) {
        id -> Uuid,
        item_id -> Uuid,
        sale_id -> Uuid,
        user_id -> Text,
        quantity -> Int4,
        unit_price_cents -> Int8,
        currency -> Text,
        status -> Text,
        units -> Text,
        reason -> Nullable<Text>,
        refund -> Nullable<Text>,
        version -> Int8,
        epoch -> Int8,
        reserved_at -> Timestamptz,
        created_at -> Timestamptz,
        expires_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    order_transitions (order_id, version) {
        order_id -> Uuid,
        version -> Int8,
        from_status -> Nullable<Text>,
        to_status -> Text,
        units -> Text,
        at -> Timestamptz,
    }
}

diesel::table! {
    payments (id) {
        id -> Uuid,
        order_id -> Uuid,
        provider -> Text,
        amount_cents -> Int8,
        currency -> Text,
        status -> Text,
        captured_at -> Nullable<Timestamptz>,
        refunded_at -> Nullable<Timestamptz>,
        refund_attempts -> Int4,
        next_refund_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        next_ask_at -> Timestamptz,
        asked -> Int4,
    }
}

diesel::table! {
    payment_notices (provider, event_id) {
        provider -> Text,
        event_id -> Text,
        payment_id -> Uuid,
        received_at -> Timestamptz,
    }
}

diesel::table! {
    outbox (id) {
        id -> Int8,
        message_id -> Uuid,
        exchange -> Text,
        routing_key -> Text,
        kind -> Text,
        body -> Bytea,
        traceparent -> Nullable<Text>,
        created_at -> Timestamptz,
        published_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    audit_log (id) {
        id -> Int8,
        at -> Timestamptz,
        actor -> Text,
        action -> Text,
        subject -> Uuid,
        before -> Nullable<Jsonb>,
        after -> Nullable<Jsonb>,
    }
}

diesel::table! {
    dead_letters (id) {
        id -> Uuid,
        queue -> Text,
        kind -> Text,
        reason -> Text,
        body -> Bytea,
        first_seen_at -> Timestamptz,
    }
}

diesel::table! {
    sandbox_payments (payment_id) {
        payment_id -> Uuid,
        order_id -> Uuid,
        amount_cents -> Int8,
        currency -> Text,
        item_name -> Text,
        quantity -> Int4,
        created_at -> Timestamptz,
        outcome -> Nullable<Text>,
        captured_at -> Nullable<Timestamptz>,
        refund_no -> Nullable<Uuid>,
        refunded_at -> Nullable<Timestamptz>,
        notice -> Nullable<Text>,
        attempts -> Int4,
        next_attempt_at -> Nullable<Timestamptz>,
        delivered_at -> Nullable<Timestamptz>,
        last_status -> Nullable<Int4>,
        closed_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    blocks (id) {
        id -> Uuid,
        kind -> Text,
        value -> Text,
        reason -> Text,
        created_by -> Text,
        created_at -> Timestamptz,
        expires_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    block_list (one) {
        one -> Bool,
        version -> Int8,
    }
}

diesel::joinable!(items -> sales (sale_id));
diesel::joinable!(orders -> items (item_id));
diesel::joinable!(payments -> orders (order_id));
diesel::allow_tables_to_appear_in_same_query!(sales, items, orders, payments);
