//! The routes, with their names beside their handlers: so that what there is can be listed,
//! and a test can ask that each endpoint was judged for every kind of caller.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{self, MethodRouter};

use super::App;

/// An endpoint of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// The method, upper case.
    pub method: &'static str,
    /// The pattern of its path, such as `/v1/api-keys/{id}`; below `/v1` without that.
    pub path: &'static str,
}

/// Routes that are being put together.
pub(super) struct Routes {
    router: Router<App>,
    listed: Vec<Route>,
}

/// The handlers of one path.
pub(super) struct Methods {
    handlers: MethodRouter<App>,
    names: Vec<&'static str>,
}

// === impl Routes ===

impl Routes {
    pub(super) fn new() -> Self {
        Self {
            router: Router::new(),
            listed: Vec::new(),
        }
    }

    pub(super) fn route(mut self, path: &'static str, methods: Methods) -> Self {
        let names = methods.names.into_iter();
        self.listed
            .extend(names.map(|method| Route { method, path }));
        self.router = self.router.route(path, methods.handlers);
        self
    }

    /// What there is.
    pub(super) fn listed(&self) -> &[Route] {
        &self.listed
    }

    pub(super) fn into_router(self) -> Router<App> {
        self.router
    }
}

// === impl Methods ===

macro_rules! methods {
    ($($method:ident = $name:literal;)*) => {
        $(
            /// The handler of this method; others may be added.
            pub(super) fn $method<H, T>(handler: H) -> Methods
            where
                H: Handler<T, App>,
                T: 'static,
            {
                Methods {
                    handlers: routing::$method(handler),
                    names: vec![$name],
                }
            }
        )*

        #[allow(dead_code, reason = "each path needs some of them")]
        impl Methods {
            $(
                pub(super) fn $method<H, T>(mut self, handler: H) -> Self
                where
                    H: Handler<T, App>,
                    T: 'static,
                {
                    self.handlers = self.handlers.$method(handler);
                    self.names.push($name);
                    self
                }
            )*
        }
    };
}

methods! {
    get = "GET";
    post = "POST";
    put = "PUT";
    patch = "PATCH";
    delete = "DELETE";
}
