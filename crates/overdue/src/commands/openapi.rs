use crate::output::print;

pub(crate) fn run() {
    print(api::openapi());
}
