//! Webhooks, for admins.

use actix_web::{Error, HttpResponse, web};
use common::api::Page;
use common::api::admin::{NewWebhook, Webhook};
use url::Host;
use uuid::Uuid;

use super::caller::Admin;
use super::{Api, body};
use crate::db::webhooks::{self, Endpoint, NewEndpoint, Registration};
use crate::error::ApiError;
use crate::webhook::is_type;
use crate::webhook::signature::{Key, new_secret};

/// Types that one webhook can ask for; more would be repetitions.
const TYPES_MAX: usize = 16;

/// `POST /internal/v1/admin/webhooks`: registers one. Its secret is in this answer and in no other.
pub async fn create(
    api: web::Data<Api>,
    admin: Admin,
    sent: Result<web::Bytes, Error>,
) -> Result<HttpResponse, ApiError> {
    let sent = sent.map_err(|error| body::unreadable(&error))?;
    let new = check(&api, body::parse(&sent)?).await?;
    let most = api.webhooks.endpoints_max;
    let mut connection = api.db.get().await?;
    match webhooks::register(&mut connection, &admin.0, &new, most.into()).await? {
        Registration::TooMany => Err(ApiError::TooManyWebhooks { most }),
        Registration::Done(endpoint) => {
            tracing::info!(actor = %admin.0, webhook_id = %endpoint.id, "webhook registered");
            let secret = Some(endpoint.secret.clone());
            Ok(HttpResponse::Created().json(Webhook { secret, ..shown(endpoint) }))
        }
    }
}

/// `GET /internal/v1/admin/webhooks`: all of them on one page, without secrets.
pub async fn list(api: web::Data<Api>, _admin: Admin) -> Result<HttpResponse, ApiError> {
    let endpoints = webhooks::active(&mut *api.db.get().await?).await?;
    let items = endpoints.into_iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(Page::<Webhook> { items, next_cursor: None }))
}

/// `DELETE /internal/v1/admin/webhooks/{id}`: nothing is sent any more; what was on its way is dropped.
pub async fn delete(
    api: web::Data<Api>,
    admin: Admin,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = path_id(&id)?;
    if !webhooks::delete(&mut *api.db.get().await?, &admin.0, id).await? {
        return Err(ApiError::NotFound);
    }
    tracing::info!(actor = %admin.0, webhook_id = %id, "webhook deleted");
    Ok(HttpResponse::NoContent().finish())
}

/// An id in a path. What is no id names nothing.
pub fn path_id(text: &str) -> Result<Uuid, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound)
}

async fn check(api: &Api, new: NewWebhook) -> Result<NewEndpoint, ApiError> {
    let url = api.rules().check(&new.url).map_err(|refused| ApiError::invalid("url", refused))?;
    let types = check_types(new.types)?;
    let secret = new.secret.unwrap_or_else(new_secret);
    Key::parse(&secret).map_err(|error| ApiError::invalid("secret", error))?;
    if let Some(Host::Domain(name)) = url.host() {
        api.resolver().check(name).await.map_err(|refused| ApiError::invalid("url", refused))?;
    }
    Ok(NewEndpoint { url: url.into(), types, secret })
}

fn check_types(types: Vec<String>) -> Result<Vec<String>, ApiError> {
    if !(1..=TYPES_MAX).contains(&types.len()) {
        return Err(ApiError::invalid("types", format!("must be 1 to {TYPES_MAX} types")));
    }
    let mut known = Vec::with_capacity(types.len());
    for (position, kind) in types.into_iter().enumerate() {
        if !is_type(&kind) {
            return Err(ApiError::invalid(
                format!("types[{position}]"),
                "must be a type of event, or order.*",
            ));
        }
        if !known.contains(&kind) {
            known.push(kind);
        }
    }
    Ok(known)
}

fn shown(endpoint: Endpoint) -> Webhook {
    Webhook {
        id: endpoint.id,
        url: endpoint.url,
        types: endpoint.types,
        secret: None,
        created_at: endpoint.created_at,
    }
}
