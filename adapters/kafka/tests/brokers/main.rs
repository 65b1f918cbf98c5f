//! One suite for every broker: always the embedded one, and a real Apache Kafka if available.

mod cases;
mod faults;
mod secured;
mod world;

macro_rules! on_every_broker {
    ($($case:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $case() {
                super::cases::$case(amends_testkit::broker().await).await;
            })*
        }

        mod apache {
            $(#[tokio::test]
            async fn $case() {
                if let Some(broker) = amends_testkit::real_kafka().await {
                    super::cases::$case(broker).await;
                }
            })*
        }
    };
}

on_every_broker!(
    nothing_that_was_sent_is_lost,
    a_batch_of_commands_stays_together_and_the_next_goes_elsewhere,
    calls_to_several_topics_in_turn_reach_every_partition_of_each,
    replies_go_to_the_home_of_their_saga,
    the_trace_context_arrives,
    what_a_sink_signs_arrives_with_its_signature_and_goes_on_as_a_dead_letter_with_it,
    receiving_takes_what_is_there_and_waits_for_no_more,
    nothing_comes_of_an_empty_topic_but_an_empty_batch,
    a_receive_that_is_dropped_loses_nothing,
    after_a_restart_the_group_goes_on_behind_what_was_settled,
    what_was_not_settled_comes_again_after_a_rewind,
    a_rewind_behind_a_settled_batch_brings_back_only_what_came_later,
    two_members_share_the_partitions_and_what_moves_is_not_lost,
    a_rebalance_does_not_wait_long_for_a_member_that_does_not_come,
    a_dead_letter_says_where_it_came_from_and_why,
    a_dead_letter_bigger_than_its_topic_allows_is_cut,
    domain_events_arrive_in_the_order_they_were_sent,
    a_topic_with_more_partitions_than_the_settings_is_reported,
    a_topic_with_fewer_partitions_than_the_settings_gets_them_where_the_broker_can,
    missing_topics_are_made_where_the_broker_can,
    a_topic_that_grows_is_noticed_where_the_broker_can,
    a_topic_deleted_and_made_again_is_read_on_where_the_broker_can,
);
