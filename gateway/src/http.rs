//! Every route, on one screen. What is not here is not served, and each says who may call it.

pub(crate) mod admin;
pub(crate) mod audit_log;
pub(crate) mod auth;
pub(crate) mod blocks;
pub(crate) mod dead_letters;
pub(crate) mod docs;
pub(crate) mod events;
pub(crate) mod orders;
pub(crate) mod payments;
pub(crate) mod place;
pub(crate) mod place_order;
pub(crate) mod sales;
pub(crate) mod users;
pub(crate) mod webhooks;

use std::rc::Rc;

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::web::{self, Payload, ServiceConfig};

use crate::answer::serve;
use crate::body::Expect;
use crate::endpoint::{Access, Endpoint, Handle, When};
use crate::limits::Class;
use crate::routes::Routes;

use Access::{Admin, Anyone, Stream, User};
use Class::{Auth, Callback, Order, Read};
use Expect::{Json, Nothing, Raw};

/// All routes. They are tried from the top, so the busiest are first.
pub static ENDPOINTS: &[Endpoint] = &[
    post("/api/v1/items/{item_id}/orders", User, Order, Json, |call| Box::pin(place_order::place(call))),
    get("/api/v1/items/{item_id}/place", Stream, Read, |call| Box::pin(place::look(call))),
    post("/api/v1/items/{item_id}/place", User, Read, Nothing, |call| Box::pin(place::join(call))),
    get("/api/v1/items/{item_id}/draw", Anyone, Read, |call| Box::pin(place::draw(call))),
    get("/api/v1/sales", Anyone, Read, |call| Box::pin(sales::list(call))),
    get("/api/v1/sales/{sale_id}", Anyone, Read, |call| Box::pin(sales::single(call))),
    get("/api/v1/orders", User, Read, |call| Box::pin(orders::list(call))),
    get("/api/v1/orders/{order_id}", User, Read, |call| Box::pin(orders::single(call))),
    post("/api/v1/auth/dev-token", Anyone, Auth, Json, |call| Box::pin(auth::dev_token(call)))
        .only(When::Dev),
    post("/api/v1/auth/wechat", Anyone, Auth, Json, |call| Box::pin(auth::wechat(call))).only(When::Wechat),
    post("/api/v1/orders/{order_id}/pay", User, Read, Json, |call| Box::pin(orders::pay(call))),
    post("/api/v1/orders/{order_id}/cancel", User, Read, Nothing, |call| Box::pin(orders::cancel(call))),
    get("/api/v1/events", Stream, Read, |call| Box::pin(events::stream(call))),
    post("/api/v1/payments/{provider}/callback", Anyone, Callback, Raw, |call| {
        Box::pin(payments::callback(call))
    }),
    get("/sandbox/payments/{payment_id}", Anyone, Read, |call| Box::pin(payments::sandbox_page(call)))
        .only(When::Dev),
    post("/sandbox/payments/{payment_id}", Anyone, Read, Raw, |call| Box::pin(payments::sandbox_pay(call)))
        .only(When::Dev),
    get("/api/v1/admin/sales", Admin, Class::Admin, |call| Box::pin(admin::list_sales(call))),
    post("/api/v1/admin/sales", Admin, Class::Admin, Json, |call| Box::pin(admin::create_sale(call))),
    get("/api/v1/admin/sales/{sale_id}", Admin, Class::Admin, |call| Box::pin(admin::get_sale(call))),
    patch("/api/v1/admin/sales/{sale_id}", Admin, Class::Admin, |call| Box::pin(admin::change_sale(call))),
    post("/api/v1/admin/sales/{sale_id}/publish", Admin, Class::Admin, Nothing, |call| {
        Box::pin(admin::publish(call))
    }),
    post("/api/v1/admin/sales/{sale_id}/pause", Admin, Class::Admin, Nothing, |call| {
        Box::pin(admin::pause(call))
    }),
    post("/api/v1/admin/sales/{sale_id}/resume", Admin, Class::Admin, Nothing, |call| {
        Box::pin(admin::resume(call))
    }),
    post("/api/v1/admin/sales/{sale_id}/end", Admin, Class::Admin, Nothing, |call| {
        Box::pin(admin::end(call))
    }),
    get("/api/v1/admin/sales/{sale_id}/audit", Admin, Class::Admin, |call| Box::pin(admin::audit(call))),
    get("/api/v1/admin/audit-log", Admin, Class::Admin, |call| Box::pin(audit_log::list(call))),
    get("/api/v1/admin/orders", Admin, Class::Admin, |call| Box::pin(admin::list_orders(call))),
    post("/api/v1/admin/orders/{order_id}/refund", Admin, Class::Admin, Nothing, |call| {
        Box::pin(admin::refund(call))
    }),
    post("/api/v1/admin/items/{item_id}/restock", Admin, Class::Admin, Json, |call| {
        Box::pin(admin::restock(call))
    }),
    get("/api/v1/admin/dead-letters", Admin, Class::Admin, |call| Box::pin(dead_letters::list(call))),
    post("/api/v1/admin/dead-letters/{letter_id}/replay", Admin, Class::Admin, Nothing, |call| {
        Box::pin(dead_letters::replay(call))
    }),
    delete("/api/v1/admin/dead-letters/{letter_id}", |call| Box::pin(dead_letters::discard(call))),
    get("/api/v1/admin/webhooks", Admin, Class::Admin, |call| Box::pin(webhooks::list(call))),
    post("/api/v1/admin/webhooks", Admin, Class::Admin, Json, |call| Box::pin(webhooks::create(call))),
    delete("/api/v1/admin/webhooks/{webhook_id}", |call| Box::pin(webhooks::delete(call))),
    get("/api/v1/admin/webhooks/{webhook_id}/deliveries", Admin, Class::Admin, |call| {
        Box::pin(webhooks::deliveries(call))
    }),
    post(
        "/api/v1/admin/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
        Admin,
        Class::Admin,
        Nothing,
        |call| Box::pin(webhooks::redeliver(call)),
    ),
    get("/api/v1/admin/blocks", Admin, Class::Admin, |call| Box::pin(blocks::list(call))),
    post("/api/v1/admin/blocks", Admin, Class::Admin, Json, |call| Box::pin(blocks::create(call))),
    delete("/api/v1/admin/blocks/{block_id}", |call| Box::pin(blocks::lift(call))),
    post("/api/v1/admin/users/{user_id}/erase", Admin, Class::Admin, Nothing, |call| {
        Box::pin(users::erase(call))
    }),
    get("/healthz", Anyone, Read, |call| Box::pin(docs::healthz(call))),
    get("/openapi.json", Anyone, Read, |call| Box::pin(docs::openapi(call))),
    get("/docs", Anyone, Read, |call| Box::pin(docs::index(call))),
    get("/docs/{file}", Anyone, Read, |call| Box::pin(docs::file(call))),
];

const fn get(path: &'static str, access: Access, class: Class, handle: Handle) -> Endpoint {
    Endpoint { method: Method::GET, path, access, class, expect: Nothing, when: When::Always, handle }
}

const fn post(path: &'static str, access: Access, class: Class, expect: Expect, handle: Handle) -> Endpoint {
    Endpoint { method: Method::POST, path, access, class, expect, when: When::Always, handle }
}

const fn patch(path: &'static str, access: Access, class: Class, handle: Handle) -> Endpoint {
    Endpoint { method: Method::PATCH, path, access, class, expect: Json, when: When::Always, handle }
}

/// Only admins delete.
const fn delete(path: &'static str, handle: Handle) -> Endpoint {
    let (method, class, when) = (Method::DELETE, Class::Admin, When::Always);
    Endpoint { method, path, access: Admin, class, expect: Nothing, when, handle }
}

impl Endpoint {
    const fn only(mut self, when: When) -> Self {
        self.when = when;
        self
    }
}

/// Which of the routes this process serves.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    /// In the dev profile.
    pub dev: bool,
    /// With a WeChat mini-program.
    pub wechat: bool,
}

impl Served {
    /// The routes, in the order of the table.
    pub fn endpoints(self) -> impl Iterator<Item = &'static Endpoint> {
        ENDPOINTS.iter().filter(move |endpoint| match endpoint.when {
            When::Always => true,
            When::Dev => self.dev,
            When::Wechat => self.wechat,
        })
    }
}

/// Everything goes to [`serve`], which knows the routes.
pub fn routes(cfg: &mut ServiceConfig, served: Served) {
    let routes = Rc::new(Routes::new(served));
    cfg.default_service(web::to(move |request: HttpRequest, payload: Payload| {
        let routes = routes.clone();
        async move { serve(&routes, request, payload).await }
    }));
}
