//! Logging in.

use actix_web::HttpResponse;
use common::ids::UserId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::endpoint::{Answer, Call};
use crate::error::ApiError;
use crate::token::Role;

/// Body of `POST /api/v1/auth/dev-token`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevToken {
    /// Who to be.
    user_id: UserId,
    /// What to be allowed.
    role: Role,
}

/// Body of `POST /api/v1/auth/wechat`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WechatCode {
    /// What `wx.login` gave the mini-program; good for one exchange within five minutes.
    #[schema(min_length = 1, max_length = 128)]
    code: String,
}

/// An access token.
#[derive(Debug, Serialize, ToSchema)]
pub struct Token {
    /// Send it as `Authorization: Bearer <token>`.
    token: String,
}

/// A token for anybody, in the dev profile.
#[utoipa::path(post, path = "/api/v1/auth/dev-token", tag = "auth", request_body = DevToken,
    responses((status = 200, description = "A token.", body = Token)))]
pub async fn dev_token(call: Call) -> Answer {
    let DevToken { user_id, role } = call.json()?;
    issue(&call, &user_id, role)
}

/// A token for the user of a WeChat mini-program.
#[utoipa::path(post, path = "/api/v1/auth/wechat", tag = "auth", request_body = WechatCode,
    responses((status = 200, description = "A token.", body = Token)))]
pub async fn wechat(call: Call) -> Answer {
    let WechatCode { code } = call.json()?;
    let wechat = call.state.wechat.as_ref().ok_or(ApiError::Defect("wechat is not set up"))?;
    let user = wechat.user(&code).await?;
    issue(&call, &user, Role::Customer)
}

fn issue(call: &Call, user: &UserId, role: Role) -> Answer {
    let token =
        call.state.tokens.issue(user, role).map_err(|_| ApiError::Defect("a token cannot be written"))?;
    Ok(HttpResponse::Ok().json(Token { token }))
}
