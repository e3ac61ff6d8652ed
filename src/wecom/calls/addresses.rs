//! The call about the addresses that WeCom sends callbacks from (document 92521).

use serde::Deserialize;

use crate::domain::ids::AppName;
use crate::domain::quota::Share;
use crate::wecom::api::Api;
use crate::wecom::client::Client;
use crate::wecom::error::CallError;
use crate::wecom::platform::TokenOf;

impl Client {
    pub(super) async fn get_callback_ip(&self, app: &AppName) -> Result<Vec<String>, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            ip_list: Vec<String>,
        }
        let answer: Answer =
            self.ask(app, &TokenOf::Upstream, Api::GetCallbackIp, Share::Whole, None).await?;
        Ok(answer.ip_list)
    }
}
